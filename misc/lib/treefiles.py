# SPDX-License-Identifier: Apache-2.0
"""The files of one version of chslurm: made, listed in a manifest, used by whom, removed."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from treewheel import Python, Wheel

MANIFEST = "MANIFEST"
NEW = ".new-"
"""Begins the names of what is not whole yet."""

PROGRAMS = {
    "chrun": "chslurm.cli.chrun",
    "vcluster": "chslurm.cli.chrun",
    "oneguest": "chslurm.cli.oneguest",
    "chslurm": "chslurm.cli.main",
}

_SHARED = {
    "man": "man",
    "completions/bash": "bash-completion/completions",
    "completions/fish": "fish/vendor_completions.d",
    "completions/zsh": "zsh/site-functions",
}
"""Folder of package data -> where man and shells look for it, beside bin."""

_PYTHON = b"/bin/python3"
_BYTECODE = re.compile(r"(?P<folder>.*)__pycache__/(?P<module>[^/]+)\.cpython-\d+\.pyc")


class Refused(Exception):
    """Why something is not done, in one line."""


@dataclass(frozen=True)
class Manifest:
    digest: str
    names: frozenset[str]  # relative, folders end with /


def make_tree(tree: Path, wheel: Wheel, python: Python, templates: Path, wheelhouse: Path | None) -> None:
    """Make a whole version and try it. Raises Refused."""
    from treewheel import call, from_where, make_pip

    packages = tree / "venv/lib" / python.folder / "site-packages"
    packages.mkdir(parents=True)
    pip = make_pip(python, tree.parent)
    options = ["--root-user-action=ignore", "--target", str(packages), *from_where(wheelhouse)]
    call([*pip, "install", *options, wheel.path], f"can't install {wheel.path.name} with what it needs", tree.parent)
    _forget_places(packages)
    _make_venv(tree / "venv", python, wheel)
    for name, module in PROGRAMS.items():
        for folder in ("bin", "libexec"):
            (tree / folder).mkdir(exist_ok=True)
        shutil.copyfile(templates / "launcher", tree / "bin" / name)
        (tree / "bin" / name).chmod(0o755)
        (tree / "libexec" / name).write_text(f"from {module} import main\n\nmain()\n")
        (tree / "venv/bin" / name).symlink_to(f"../../bin/{name}")
    _open_to_all(tree)
    told = call([tree / "bin/chrun", "--version"], "can't run what has been installed").strip()
    if wheel.version not in told:
        raise Refused(f"can't install {wheel.path}: it says that it is {told!r}")
    _make_share(tree, packages / "chslurm/data", call([tree / "bin/chslurm", "completion", "bash"], "no completion"))
    write_manifest(tree, wheel.digest)


def _forget_places(packages: Path) -> None:
    """Remove what knows where it was installed: programs of other packages, where our wheel was; and what is double."""
    for folder in ("bin", "share"):
        shutil.rmtree(packages / folder, ignore_errors=True)
    for record in packages.glob("*.dist-info/direct_url.json"):
        record.unlink()


def _make_venv(venv: Path, python: Python, wheel: Wheel) -> None:
    """What makes Python look for packages beside the link by which it was called, wherever that is now."""
    (venv / "bin").mkdir()
    (venv / "bin/python3").symlink_to(python.program)
    lines = {
        "home": os.path.dirname(python.program),
        "include-system-site-packages": "false",
        "version": ".".join(map(str, python.version)),
        "prompt": f"chslurm-{wheel.version}",
    }
    (venv / "pyvenv.cfg").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))


def _make_share(tree: Path, data: Path, completion: str) -> None:
    """Manual pages and completion where they are looked for; `completion.bash` is what module files load."""
    share = tree / "share"
    share.mkdir()
    (share / "completion.bash").write_text(completion)
    (share / "chslurm").symlink_to(os.path.relpath(data, share))
    for folder, place in _SHARED.items():
        if (data / folder).is_dir():
            (share / place).parent.mkdir(exist_ok=True)
            (share / place).symlink_to(os.path.relpath(data / folder, (share / place).parent))


def _open_to_all(tree: Path) -> None:
    for folder, _, names in os.walk(tree):
        os.chmod(folder, 0o755)
        for path in (os.path.join(folder, name) for name in names):
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o111 else 0o644)


def list_tree(tree: Path) -> Iterator[str]:
    """All that is in a folder, relative, a folder before what is in it and with / at its end."""
    for folder, folders, files in os.walk(tree):
        place = os.path.relpath(folder, tree)
        for name in sorted([*files, *folders]):
            path = os.path.join(folder, name)
            end = "/" if name in folders and not os.path.islink(path) else ""
            yield os.path.normpath(os.path.join(place, name)) + end


def write_manifest(tree: Path, digest: str) -> None:
    replace_file(tree / MANIFEST, "".join(f"{line}\n" for line in [digest, *list_tree(tree), MANIFEST]).encode())


def read_manifest(tree: Path) -> Manifest:
    digest, *names = (tree / MANIFEST).read_text().splitlines()
    return Manifest(digest, frozenset(names))


def find_foreign(tree: Path) -> list[str]:
    """Return what is in a version and not of it. Bytecode of its modules, which root's Python may have written, is."""
    names = read_manifest(tree).names
    return [name for name in list_tree(tree) if name not in names and not _is_made_of(name, names)]


def _is_made_of(name: str, names: frozenset[str]) -> bool:
    match = _BYTECODE.fullmatch(name)
    return name.endswith("__pycache__/") or (match is not None and f"{match['folder']}{match['module']}.py" in names)


def find_users(tree: Path) -> list[str]:
    """Return the processes of this host that run a program of this version, as far as we may see them."""
    users = []
    wanted = os.stat(tree / "venv")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(_PYTHON) and os.path.samestat(os.stat(words[0][: -len(_PYTHON)]), wanted):
                what = next((word for word in words[2:] if word != b"-m"), b"").decode(errors="replace")
                what = next((name for name, module in PROGRAMS.items() if module == what), what)
                shown = "".join(letter if letter.isprintable() else "?" for letter in what.rpartition("/")[2][:60])
                users.append(f"{shown} (pid {process.name} of {_name_user(process.stat().st_uid)})")
    return users


def _name_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def remove_listed(tree: Path) -> None:
    """Remove what the manifest lists, the manifest last; what is not ours stays, and so do the folders above it.

    A file server keeps a file that is open under another name for a while: then the manifest stays for the next time.
    """
    if (tree / MANIFEST).is_file():
        names = read_manifest(tree).names
        ours = [name for name in list_tree(tree) if name in names or _is_made_of(name, names)]
        for name in sorted(ours, reverse=True):
            if name.endswith("/"):
                with suppress(OSError):
                    (tree / name).rmdir()
            elif name != MANIFEST:
                (tree / name).unlink()
        if os.listdir(tree) != [MANIFEST]:
            return
        (tree / MANIFEST).unlink()
    with suppress(OSError):
        tree.rmdir()


def replace_file(path: Path, data: bytes) -> None:
    aside = make_aside(path)
    with open(aside, "xb") as file:  # follows no link that somebody has put there
        os.fchmod(file.fileno(), 0o644)
        file.write(data)
    aside.rename(path)


def replace_link(path: Path, target: str) -> None:
    aside = make_aside(path)
    aside.symlink_to(target)
    aside.rename(path)


def make_aside(path: Path) -> Path:
    """Return the name of what will take the place of `path`; nothing has it, and what is left of it is known by it."""
    aside = path.with_name(f"{NEW}{path.name}")
    aside.unlink(missing_ok=True)
    return aside
