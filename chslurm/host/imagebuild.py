# SPDX-License-Identifier: Apache-2.0
"""Build an image with mmdebstrap: packages of a Debian release, the files of `guest/image`, one qcow2 disk.

Root builds as root; an ordinary user builds in a user namespace. What happens inside is in the scripts of
`guest/image`, which mmdebstrap runs as its hooks; here is what surrounds them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chslurm import __version__
from chslurm.errors import ChslurmError
from chslurm.history import Deed, Entry
from chslurm.host.bundle import read_boot_bundle
from chslurm.host.history import add_to_history, find_doer
from chslurm.host.process import describe_exit, run, spawn

_DEFAULT_MIRROR = "http://deb.debian.org/debian"
_SECURITY_MIRROR = "http://deb.debian.org/debian-security"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NEEDS = {"mmdebstrap": "mmdebstrap", "qemu-img": "qemu-utils", "mkfs.ext4": "e2fsprogs", "sgdisk": "gdisk"}
_NEEDS_OF_USERS = {"newuidmap": "uidmap", "unshare": "util-linux"}
_APT_OPTION = re.compile(r"Acquire::(?:https?::|Check-|Retries|ForceIPv).* \"[^\"]+\";")
_STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to build. `recipe` is the folder `guest/image`."""

    suite: str
    include: tuple[str, ...]
    size_mib: int
    output: Path
    mirror: str | None
    force: bool
    recipe: Path


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """What was built."""

    path: Path
    size_bytes: int  # on disk
    kernel_version: str
    seconds: float


def build_image(options: BuildOptions, progress: Callable[[str], None]) -> BuiltImage:
    """Build an image; `progress` gets a line for each step. Takes some minutes.

    Changes nothing on the host but the output file, which is written aside and renamed. Raises ChslurmError when the
    host lacks something, the output exists (without `force`), or the build fails; the log then stays beside the output.
    """
    check_needs()
    if options.output.exists() and not options.force:
        raise ChslurmError(f"can't write {options.output}: it exists", hint="use --force to replace it")
    start = time.monotonic()

    def tell(step: str) -> None:
        progress(f"{time.monotonic() - start:5.0f} s  {step}")

    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{options.output.name}.", dir=options.output.parent)
    except OSError as error:
        raise ChslurmError(f"can't write {options.output}: {error.strerror}") from error
    with folder as work:
        disk = Path(work, "disk.qcow2")
        _run_mmdebstrap(options, disk, Path(f"{options.output}.log"), tell)
        tell("checking the image")
        run(["qemu-img", "check", "-q", "-f", "qcow2", disk])
        bundle = read_boot_bundle(disk, "qcow2")
        if bundle is None:
            raise ChslurmError(f"can't build {options.output}: the disk has no boot bundle")
        bundle.close()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        add_to_history(disk, "qcow2", Entry(Deed.BUILT, at, find_doer(), __version__, bundle.version))
        _sync(disk)
        disk.replace(options.output)
    _sync(options.output.parent)
    size_bytes = options.output.stat().st_blocks * 512
    return BuiltImage(options.output, size_bytes, bundle.version, time.monotonic() - start)


def check_needs() -> None:
    """Raise ChslurmError naming the packages and rights that building an image lacks on this host."""
    as_root = os.geteuid() == 0
    needs = _NEEDS if as_root else _NEEDS | _NEEDS_OF_USERS
    missing = [package for program, package in needs.items() if not shutil.which(program, path=_search_path())]
    if missing:
        raise ChslurmError("can't build an image: programs are missing", hint=f"apt-get install {' '.join(missing)}")
    if not as_root and run(["unshare", "--map-root-user", "--map-auto", "true"], check=False).status:
        hint = "ask for unprivileged user namespaces and for lines in /etc/subuid and /etc/subgid, or build as root"
        raise ChslurmError("can't build an image: this user can't have a user namespace with many user ids", hint=hint)


def make_guest_sources(suite: str, mirror: str | None) -> str:
    """Return the apt sources a guest will use, as deb822 text: public mirrors, or the one that was asked for."""
    with_updates = suite not in ("sid", "unstable")
    stanzas = [(mirror or _DEFAULT_MIRROR, f"{suite} {suite}-updates" if with_updates else suite)]
    if with_updates:
        stanzas.append((_SECURITY_MIRROR, f"{suite}-security"))
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {_KEYRING}\n"
        for uri, suites in stanzas
    )


def parse_apt_targets(text: str, suite: str) -> tuple[str, ...]:
    """Return `URI SUITE` of the Debian sources of `suite` in what `apt-get indextargets` printed."""
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    rows = (line.split("|") for line in text.splitlines() if line.count("|") == 3)
    return tuple(
        dict.fromkeys(
            f"{uri} {release}"
            for uri, release, component, origin in rows
            if release in wanted and component == "main" and (origin == "Debian" or not origin or "$" in origin)
        )
    )


def _find_sources(suite: str, mirror: str | None) -> list[str]:
    """Return apt source lines for the build: the mirror that was asked for, else this host's, else the public ones."""
    found: tuple[str, ...] = ()
    if mirror is None:
        layout = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
        listed = run(["apt-get", "indextargets", "--format", layout, "Created-By: Packages"], check=False)
        found = parse_apt_targets(listed.stdout, suite)
    if not any(line.endswith(f" {suite}") for line in found):
        updates = suite not in ("sid", "unstable")
        found = (f"{mirror or _DEFAULT_MIRROR} {suite}",)
        found += (f"{mirror or _DEFAULT_MIRROR} {suite}-updates",) if updates else ()
        found += (f"{_SECURITY_MIRROR} {suite}-security",) if updates and mirror is None else ()
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    return [f"deb {signed}{line} main" for line in found]


def _find_apt_options() -> list[str]:
    """Return how apt of this host reaches its mirrors: proxies, certificates, clock checks. For the build only."""
    dump = run(["apt-config", "dump", "Acquire"], check=False).stdout
    return [f"--aptopt={line}" for line in dump.splitlines() if _APT_OPTION.fullmatch(line)]


def _mmdebstrap_argv(options: BuildOptions, disk: Path) -> list[str]:
    listed = (options.recipe / "packages").read_text().splitlines()
    packages = [line for line in listed if line and not line.startswith("#")]
    as_root = os.geteuid() == 0
    # fmt: off
    return [
        # Root's mounts are seen by nobody else and are gone when the build is, however it ends.
        *(["unshare", "--mount"] if as_root else []),
        "mmdebstrap", "--variant=minbase", "--format=null", f"--mode={'root' if as_root else 'unshare'}",
        "--skip=cleanup",  # the tree is thrown away
        *_find_apt_options(),
        f"--include={','.join([*packages, *options.include])}",
        # Before anything is unpacked: our files. (In a user namespace the hooks can't see the home of the user.)
        '--setup-hook=mkdir "$1/chslurm-build"',
        f"--setup-hook=copy-in {shlex.quote(os.fspath(options.recipe.absolute()))} /chslurm-build",
        '--setup-hook=sh "$1/chslurm-build/image/setup.sh" "$1"',
        '--essential-hook=sh "$1/chslurm-build/image/essential.sh" "$1"',
        '--customize-hook=sh "$1/chslurm-build/image/customize.sh" "$1"',
        '--customize-hook=sh "$1/chslurm-build/image/disk.sh" "$1"',
        f"--customize-hook=download /chslurm-build/disk.qcow2 {shlex.quote(os.fspath(disk))}",
        options.suite, "/dev/null", *_find_sources(options.suite, options.mirror),
    ]
    # fmt: on


def _run_mmdebstrap(options: BuildOptions, disk: Path, log: Path, tell: Callable[[str], None]) -> None:
    environment = {
        "PATH": _search_path(),
        "CHSLURM_DISK_MIB": str(options.size_mib),
        "CHSLURM_APT_SOURCES": make_guest_sources(options.suite, options.mirror),
    }
    tail: list[str] = []
    argv = _mmdebstrap_argv(options, disk.absolute())
    process = spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    try:
        with log.open("w") as file:
            for raw in process.stdout or ():
                line = raw.decode("utf-8", "replace")
                file.write(line)
                tail = [*tail[-2:], line.strip()]
                if step := _find_step(line):
                    tell(step)
        status = process.wait()
    except BaseException:
        log.unlink(missing_ok=True)
        raise
    finally:
        _stop(process)
    if status:
        cause = " | ".join(tail)
        raise ChslurmError(f"can't build an image: mmdebstrap: {describe_exit(status)}: {cause}", hint=f"read {log}")
    log.unlink()


def _find_step(line: str) -> str | None:
    """Return what a line of the log says about a new step: those of our hooks and the large ones of mmdebstrap."""
    if line.startswith("chslurm: "):
        return line.removeprefix("chslurm: ").strip()
    found = re.match(r"I: ((?:running apt-get update|downloading|extracting|installing)[^.]*)", line)
    return found[1].strip() if found else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End mmdebstrap, as Ctrl-C at a terminal would: it then takes down its mounts and folders."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdout:
        process.stdout.close()


def _search_path() -> str:
    """PATH with the folders that users often have not got in theirs; mkfs.ext4 and sgdisk lie there."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
