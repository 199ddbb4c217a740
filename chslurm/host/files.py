# SPDX-License-Identifier: Apache-2.0
"""The job directory: claimed, locked and filled before anything starts; and how files are written that others read.

Of a directory that is used again only the tool's own files are replaced (`jobdir` knows their names), only where its
marker is, and never while a cluster runs in it. Output files keep their inode, so that `tail -F` goes on following.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import BinaryIO

import chslurm
from chslurm.errors import ChslurmError, UsageError
from chslurm.host.keys import render_key_files
from chslurm.host.lock import check_unlocked, hold_lock
from chslurm.jobdir import META_FILES, JobDir, find_guest_of_output, is_run_file
from chslurm.meta import make_meta_files
from chslurm.plan import Plan, plan_digest, plan_from_json, plan_to_json
from chslurm.units import quote

# fmt: off
DISTRIBUTIONS = (
    "bullseye", "bookworm", "trixie", "forky", "focal", "jammy", "noble",
    "debian", "ubuntu", "fedora", "rhel", "rocky", "almalinux", "opensuse-leap",
)
# fmt: on
"""Names under which a guest may look for its boot scripts in /ch/opt; all lead to `linux`."""

_PATIENCE_S = 60.0
"""A host waits so long for what the head wrote: a shared file system may show an old state (NFS: up to 60 s)."""


def find_data(name: str) -> Path:
    """Return the folder `guest`, `examples` or `sbatch-templates`: of the installed package, or of the checkout."""
    package = Path(chslurm.__file__).parent
    installed = package / "data" / name
    return installed if installed.exists() else package.parent / name


def write_file(path: PurePath, data: bytes, mode: int = 0o600) -> None:
    """Write a file aside and rename it, so that a reader sees it whole or not at all. Raises OSError."""
    aside = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            os.fchmod(fd, mode)
        os.rename(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def open_append(path: PurePath) -> BinaryIO:
    """Open a file of the job directory to write at its end, unbuffered; it is made if need be, for its owner only.

    Whoever could write into the directory before may have left anything under this name: links are not followed.
    Raises OSError, also for what is no regular file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    os.set_blocking(fd, True)
    return open(fd, "ab", buffering=0)


async def read_shared(path: PurePath, digest: str) -> bytes:
    """Return what the head wrote to `path`, as soon as it has this digest. Raises ChslurmError when it never does."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        found = None
        with suppress(OSError):
            found = Path(path).read_bytes()
        if found is not None and plan_digest(found) == digest:
            return found
        if time.monotonic() > deadline_s:
            state = "not there" if found is None else "not what the head wrote"
            hint = "put the job directory on a file system that all nodes share"
            raise ChslurmError(f"can't use {path}: {state}", hint=hint)
        await asyncio.sleep(0.5)


def read_plan(path: PurePath, *, cluster_id: str, digest: str) -> Plan:
    """Return the plan that the head wrote. Raises ChslurmError when it does not appear, or is of another cluster."""
    plan = plan_from_json(asyncio.run(read_shared(path, digest)))
    if plan.cluster_id != cluster_id:
        raise ChslurmError(f"can't use the plan {path}: it is of cluster {plan.cluster_id}, not {cluster_id}")
    return plan


def check_job_dir(root: Path) -> None:
    """Raise UsageError unless `root` is ours to use again, or can be made. A look only: `start_job_dir` decides."""
    name = f"job directory {quote(str(root))}"
    try:
        if not os.path.lexists(root):
            if not stat.S_ISDIR(root.parent.stat().st_mode) or not os.access(root.parent, os.W_OK | os.X_OK):
                raise UsageError(f"{name}: nothing can be made there", hint="choose another place with --jobbase")
            return
        found = root.stat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or _read_marker(root) is None:
            hint = "choose another name"
            raise UsageError(f"{name}: exists, and is not one of yours that this tool made", hint=hint)
        check_unlocked(JobDir(root).lock, name)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error


@contextmanager
def start_job_dir(plan: Plan, *, reuse: bool) -> Iterator[Plan]:
    """Make or take over the job directory and fill it; yields the plan with the directory's true name.

    It is locked until the end and stays with all that is in it. Raises UsageError when it may not be used, ChslurmError
    when it can't be written.
    """
    root = Path(plan.job_dir)
    try:
        if not (reuse and root.exists()):
            root = _make_root(root, plan.cluster_id, reuse)
        check_job_dir(root)
        job_dir = JobDir(root)
        Path(job_dir.run).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _cannot_write(root, error) from error
    with hold_lock(job_dir.lock, f"job directory {quote(str(root))}"):
        try:
            plan = _fill(job_dir, dataclasses.replace(plan, job_dir=str(root)))
        except OSError as error:
            raise _cannot_write(root, error) from error
        yield plan


def renew_jobscript(plan: Plan) -> bool:
    """Bring an edited job script to the guests when an editor replaced its file; say whether that was so."""
    if plan.job.script is None:
        return False
    jobscript = Path(JobDir(PurePath(plan.job_dir)).jobscript)
    with suppress(OSError):
        theirs, ours = os.stat(plan.job.script), os.stat(jobscript)
        same_file = os.path.samestat(theirs, ours)
        if not same_file and (theirs.st_mtime_ns, theirs.st_size) != (ours.st_mtime_ns, ours.st_size):
            _place_jobscript(plan.job.script, jobscript)
            return True
    return False


def _make_root(wanted: Path, cluster_id: str, exact: bool) -> Path:
    """Make the directory. Of two that start in one second the later gets a suffix."""
    for attempt in range(1, 100):
        root = wanted if attempt == 1 else wanted.with_name(f"{wanted.name}.{attempt}")
        try:
            root.mkdir(mode=0o700)
        except FileExistsError:
            if exact:
                return root
            continue
        root.chmod(0o700)  # whatever the umask took away
        write_file(JobDir(root).marker, f"{cluster_id}\n".encode())
        return root
    raise UsageError(f"job directory {quote(str(wanted))}: exists", hint="choose a name with --jobdir")


def _read_marker(root: Path) -> str | None:
    """Return the cluster id in the marker; None when there is no marker of ours. Symbolic links are no markers."""
    with suppress(OSError, ValueError):
        fd = os.open(JobDir(root).marker, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return file.read(64).decode("ascii").strip()
    return None


def _fill(job_dir: JobDir, plan: Plan) -> Plan:
    """Put everything in its place; the plan comes last."""
    from chslurm.host.keymaking import make_cluster_keys

    for folder, mode in ((job_dir.meta, 0o755), (job_dir.sync, 0o755), (job_dir.test, 0o755), (job_dir.out, 0o700)):
        _make_folder(folder, mode)
    _clear(job_dir, plan)
    write_file(job_dir.marker, f"{plan.cluster_id}\n".encode())
    for name, text in make_meta_files(plan).items():
        write_file(job_dir.meta / name, text.encode(), 0o644)
    _make_folder(job_dir.keys, 0o700)
    for name, text in render_key_files(make_cluster_keys(plan.cluster_id)).items():
        write_file(job_dir.keys / name, text.encode())
    _copy_boot_scripts(job_dir.opt)
    if plan.job.script is not None:
        why = _place_jobscript(plan.job.script, Path(job_dir.jobscript))
        if why:
            note = f"/ch/meta/jobscript is a copy ({why}): edits reach guests after some seconds"
            plan = dataclasses.replace(plan, warnings=(*plan.warnings, note))
    write_file(job_dir.plan, plan_to_json(plan))
    return plan


def _make_folder(path: PurePath, mode: int) -> None:
    Path(path).mkdir(exist_ok=True)
    Path(path).chmod(mode)


def _clear(job_dir: JobDir, plan: Plan) -> None:
    """Take away what an earlier cluster left, and nothing else."""
    for name in META_FILES:
        Path(job_dir.meta / name).unlink(missing_ok=True)
    for path in Path(job_dir.sync).glob("*.job[rd]*"):
        if path.name.removesuffix(path.suffix).isdecimal() and path.suffix in (".jobready", ".jobdone"):
            path.unlink()
    for path in Path(job_dir.out).iterdir():
        guest = find_guest_of_output(path.name)
        if guest is not None:
            _empty(path) if guest < len(plan.guests) else path.unlink()
    for path in Path(job_dir.run).iterdir():
        if is_run_file(path.name):
            path.unlink()
    for folder in (job_dir.keys, job_dir.opt):
        if Path(folder).exists():
            shutil.rmtree(folder)


def _empty(path: Path) -> None:
    """Empty a file in its place; a link that somebody put there is removed, not followed."""
    if path.is_symlink():
        path.unlink()
        return
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))


def _copy_boot_scripts(opt: PurePath) -> None:
    """Fill run/opt: the boot scripts of this version, whatever becomes of the installed ones while the cluster runs."""
    linux = opt / "linux"
    _make_folder(opt, 0o755)
    _make_folder(linux, 0o755)
    for script in find_data("guest").glob("*.sh"):
        write_file(linux / script.name, script.read_bytes(), 0o755)
    for distribution in DISTRIBUTIONS:
        os.symlink("linux", opt / distribution)


def _place_jobscript(script: str, jobscript: Path) -> str:
    """Make `jobscript` a hard link to the script, else a copy: then say why. An old one is replaced in one step."""
    aside = jobscript.with_name(f".jobscript.{secrets.token_hex(4)}")
    why = ""
    try:
        os.link(os.path.realpath(script), aside)
    except OSError as error:
        why = "it is on another file system" if error.errno == errno.EXDEV else str(error.strerror)
        shutil.copy2(script, aside)
    os.rename(aside, jobscript)
    return why


def _cannot_write(root: Path, error: OSError) -> ChslurmError:
    return ChslurmError(f"can't write job directory {quote(str(root))}: {error.strerror}: {error.filename}")
