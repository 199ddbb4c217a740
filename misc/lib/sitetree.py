# SPDX-License-Identifier: Apache-2.0
"""Versions of chslurm side by side in one folder that can be moved: installed, made the default, listed, removed.

    PREFIX/VERSION/bin/              chrun, vcluster, oneguest, chslurm: they find the rest from where they are
    PREFIX/VERSION/venv/             Python's packages, without any path of this folder in them
    PREFIX/VERSION/share/            manual pages and completion
    PREFIX/VERSION/MANIFEST          all of it, and nothing else
    PREFIX/default                   leads to one VERSION
    PREFIX/modulefiles/chslurm/      for Lmod; PREFIX/modulefiles-tcl/chslurm/ for Environment Modules

A version is made in a hidden folder and renamed when it is whole and has been tried; links are replaced by a rename.
So a kill at any moment leaves a version or none, and the next call that changes anything clears what is left of it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parent))  # python3 -I leaves it out

from treefiles import (
    MANIFEST,
    NEW,
    Refused,
    find_foreign,
    find_users,
    make_tree,
    read_manifest,
    remove_listed,
    replace_file,
    replace_link,
)
from treewheel import Python, Wheel, find_python, find_wheel

MARKER = ".chslurm"
LOCK = ".chslurm.lock"
DEFAULT = "default"
LMOD, TCL = "modulefiles/chslurm", "modulefiles-tcl/chslurm"
MODULES = {LMOD: ("chslurm.lua", ".lua"), TCL: ("chslurm.tcl", "")}
"""Folder of module files -> what they are made from, and how their names end."""
TCL_DEFAULT = ".version"  # to Environment Modules a link would be one more version
SITES_OWN = ("image.qcow2",)
"""What a site may have put into the prefix before anything is installed."""
TEMPLATES = Path(__file__).resolve().parent.parent / "tree"


class Prefix:
    """The folder, held by a lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def versions(self) -> list[str]:
        folders = [p for p in self.path.iterdir() if p.name[0] != "." and not p.is_symlink()]
        return sorted(folder.name for folder in folders if (folder / MANIFEST).is_file())

    def default(self) -> str | None:
        link = self.path / DEFAULT
        return os.readlink(link) if link.is_symlink() else None

    def switch(self, version: str) -> None:
        """Make a version the default one, for module files first."""
        replace_link(self.path / LMOD / DEFAULT, f"{version}.lua")
        replace_file(self.path / TCL / TCL_DEFAULT, f"#%Module\nset ModulesVersion {version}\n".encode())
        replace_link(self.path / DEFAULT, version)

    def add_module_files(self, version: str) -> None:
        for folder, (template, suffix) in MODULES.items():
            (self.path / folder).mkdir(parents=True, exist_ok=True)
            replace_file(self.path / folder / (version + suffix), (TEMPLATES / template).read_bytes())

    def remove(self, version: str) -> None:
        """Take a version away: nobody finds it any more, then it is moved aside, then it goes."""
        found_by = [self.path / folder / (version + suffix) for folder, (_, suffix) in MODULES.items()]
        if self.default() == version:
            found_by += [self.path / LMOD / DEFAULT, self.path / TCL / TCL_DEFAULT, self.path / DEFAULT]
        for name in found_by:
            name.unlink(missing_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=self.path))
        (self.path / version).rename(aside)  # in place of the empty folder
        remove_listed(aside)

    def clear(self) -> None:
        """Remove what a call that was killed has left. We have the lock, so none is at it."""
        for folder in (self.path, *(self.path / folder for folder in MODULES)):
            for left in folder.glob(f"{NEW}*"):
                left.unlink() if left.is_symlink() or left.is_file() else shutil.rmtree(left)
        for left in self.path.glob(".old-*"):
            remove_listed(left)

    def leave(self) -> None:
        """Remove what is ours beside versions; the folder, too, if it was made by us and is empty."""
        made = (self.path / MARKER).read_text().rstrip("\n").partition("for it: ")[2].split("/")
        for folder in MODULES:
            for empty in (self.path / folder, (self.path / folder).parent):
                with suppress(OSError):
                    empty.rmdir()
        for name in (MARKER, LOCK):
            (self.path / name).unlink(missing_ok=True)
        if left := sorted(p.name for p in self.path.iterdir()):
            say(f"kept, because not made by us: {', '.join(left)}")
            return
        with suppress(OSError):
            if made[0]:
                self.path.rmdir()
            for parent, name in zip(self.path.parents, made[1:], strict=False):
                if parent.name == name:  # not so when the prefix has been moved
                    parent.rmdir()


@contextmanager
def open_prefix(path: Path, *, make: bool) -> Iterator[Prefix]:
    """Hold the folder; with `make` an empty or a new one becomes ours. Raises Refused when it is somebody else's."""
    made = [folder.name for folder in (path, *path.parents) if not folder.exists()]
    if made and not make:
        raise Refused(f"nothing is installed in {path}: no such folder")
    path.mkdir(parents=True, exist_ok=True)
    if not (path / MARKER).is_file():
        if foreign := sorted({p.name for p in path.iterdir()} - {LOCK, f"{NEW}{MARKER}", *SITES_OWN}):
            raise Refused(f"can't use {path}: {foreign[0]!r} in it is not ours; name a folder that is new or empty")
        if not make:
            raise Refused(f"nothing is installed in {path}")
    with open(os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not os.path.exists(path / LOCK) or not os.path.samestat(os.stat(path / LOCK), os.fstat(file.fileno())):
            raise Refused(f"somebody else has just removed {path}; try again")
        if not (path / MARKER).is_file():
            replace_file(
                path / MARKER, f"made by misc/install of chslurm; folders made for it: {'/'.join(made)}\n".encode()
            )
        prefix = Prefix(path)
        try:
            prefix.clear()
            yield prefix
        finally:
            if not prefix.versions():
                prefix.leave()


def install(options: argparse.Namespace) -> None:
    """Install one version, or say that it is there."""
    python = find_python(options.python)
    with open_prefix(options.prefix, make=True) as prefix:
        work = Path(tempfile.mkdtemp(prefix=NEW, dir=prefix.path))
        try:
            wheel = find_wheel(options.wheel, options.wheelhouse, python, work)
            tree = prefix.path / wheel.version
            if tree.exists():
                check_same(tree, wheel, python)
                say(f"{wheel.version} is installed already")
            else:
                make_tree(work / "tree", wheel, python, TEMPLATES, options.wheelhouse)
                (work / "tree").rename(tree)
                say(f"installed {tree}")
        finally:
            shutil.rmtree(work, ignore_errors=True)
        prefix.add_module_files(wheel.version)
        if options.default or prefix.default() is None:
            prefix.switch(wheel.version)
        other = "" if prefix.default() == wheel.version else f"; --switch {wheel.version} makes this one that"
        say(f"the default version is {prefix.default()}{other}")
        say(f"module files: {prefix.path}/modulefiles; for Environment Modules: {prefix.path}/modulefiles-tcl")
        say(f"without modules: PATH={prefix.path}/default/bin:$PATH")


def check_same(tree: Path, wheel: Wheel, python: Python) -> None:
    """Raise Refused unless the tree was made from the same files, for the same Python."""
    if not (tree / MANIFEST).is_file():
        raise Refused(f"can't install {tree}: there is something else of this name; move it away")
    if read_manifest(tree).digest != wheel.digest:
        raise Refused(f"can't install {tree}: it is there, made from other files; jobs may use it; remove it first")
    if (made_for := os.readlink(tree / "venv/bin/python3")) != python.program:
        raise Refused(f"can't install {tree}: it is there, made for {made_for}; jobs may use it; remove it first")


def uninstall(options: argparse.Namespace) -> None:
    """Remove a version, or all; all or none when one of them can't be."""
    with open_prefix(options.prefix, make=False) as prefix:
        there = prefix.versions()
        if options.version:
            check_there(prefix, options.version)
        chosen = [options.version] if options.version else there
        rest = [version for version in there if version not in chosen]
        if rest and prefix.default() in chosen:
            raise Refused(f"{prefix.default()} is the default version; make another one that: --switch {rest[-1]}")
        for version in chosen:
            tree = prefix.path / version
            if foreign := find_foreign(tree):
                raise Refused(f"can't remove {tree}: not installed by us: {', '.join(foreign[:3])}; move it away")
            if (users := find_users(tree)) and not options.force:
                more = f" and {len(users) - 3} more" if len(users) > 3 else ""
                raise Refused(
                    f"can't remove {tree}: in use on this host by {', '.join(users[:3])}{more}; wait, or remove it with"
                    " --force: what runs loses its files"
                )
        for version in chosen:
            prefix.remove(version)
            say(f"removed {prefix.path / version}")


def check_there(prefix: Prefix, version: str) -> None:
    there = prefix.versions()
    if version not in there:
        raise Refused(f"version {version} is not in {prefix.path}; there are: {', '.join(there) or 'none'}")


def switch(options: argparse.Namespace) -> None:
    """Make another version the default."""
    with open_prefix(options.prefix, make=False) as prefix:
        check_there(prefix, options.switch)
        prefix.add_module_files(options.switch)
        prefix.switch(options.switch)
        say(f"the default version is {options.switch}")


def show(options: argparse.Namespace) -> None:
    """Print the versions; needs no right to write."""
    prefix = Prefix(options.prefix)
    if not (prefix.path / MARKER).is_file():
        raise Refused(f"nothing is installed in {prefix.path}")
    for version in prefix.versions():
        default = "default" if version == prefix.default() else "       "
        print(f"{version:12} {default} {', '.join(find_users(prefix.path / version))}".rstrip())


def say(text: str) -> None:
    print(f"install: {text}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        say(f"{message}; see --help")
        sys.exit(64)


def parse(words: list[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="install", formatter_class=layout, description=_HELP, epilog=_EPILOG)
    add, python = parser.add_argument, sys.executable
    add("--prefix", type=Path, metavar="DIR", default=Path("/opt/chslurm"), help="the folder (/opt/chslurm)")
    add("--wheel", type=Path, metavar="FILE", help="what to install (a wheel made from this checkout)")
    add("--wheelhouse", type=Path, metavar="DIR", help="take all packages from this folder, none from a network")
    add("--python", metavar="PROGRAM", default=python, help=f"the Python, which all nodes have ({python})")
    add("--default", action="store_true", help="make it the default version, which the first one is anyway")
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument("--switch", metavar="VERSION", help="make an installed version the default one")
    verbs.add_argument("--list", action="store_true", help="print the versions, and who uses them on this host")
    verbs.add_argument("--uninstall", action="store_true", help="remove VERSION, or all, and nothing else")
    add("--force", action="store_true", help="with --uninstall: also what processes of this host use")
    add("version", metavar="VERSION", nargs="?", help="for --uninstall")
    options = parser.parse_args(words)
    if options.version and not options.uninstall:
        parser.error(f"{options.version}: a version belongs to --uninstall")
    options.prefix = Path(os.path.abspath(options.prefix))
    return options


_HELP = """\
Install chslurm into PREFIX/VERSION for all users, beside other versions, with module files for Lmod and
Environment Modules. PREFIX can be moved, or be mounted elsewhere. Clusters that run keep their version.
Any call may be repeated, also after a kill.
"""
_EPILOG = """\
Only processes of this host are seen as users of a version: remove one when the jobs that began with it have
ended. Exit status: 0 done, 1 not done, 64 bad usage, 130 interrupted.
"""


def main() -> int:
    options = parse(sys.argv[1:])
    os.umask(0o022)
    verb = uninstall if options.uninstall else switch if options.switch else show if options.list else install
    try:
        verb(options)
    except Refused as error:
        say(str(error))
        return 1
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        hint = "; be root, or name a --prefix of your own" if isinstance(error, PermissionError) else ""
        say(f"can't work on {options.prefix}: {what}{hint}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
