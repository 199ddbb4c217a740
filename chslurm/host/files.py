# SPDX-License-Identifier: Apache-2.0
"""How files are written and read that others read and write: whole or not at all, and never through a link."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path, PurePath
from typing import BinaryIO

import chslurm
from chslurm.errors import UsageError
from chslurm.planner import find_file_system

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def find_data(name: str) -> Path:
    """Return what is called `guest`, `examples`, `report.html`...: of the installed package, or of the checkout."""
    package = Path(chslurm.__file__).parent
    installed = package / "data" / name
    return installed if installed.exists() else package.parent / name


def read_file_system(path: Path) -> str:
    """Return the type of the file system that `path` is on, or will be when it is made."""
    existing = find_existing(path)
    mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return find_file_system(mountinfo, existing.resolve())


def find_existing(path: Path) -> Path:
    """Return `path`, or the closest folder above it that is there, as far as we may look."""
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def read_clock(folder: Path) -> float:
    """Return the time of the file system that a folder is on, by a file that is gone at once. Raises OSError."""
    import tempfile

    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(b"\n")
        return os.fstat(file.fileno()).st_mtime


def read_small_file(path: PurePath, most_bytes: int = 1 << 20) -> bytes:
    """Return what is in a file that the user has named. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    if len(data) > most_bytes:
        raise UsageError(f"can't read {path}: it has more than {most_bytes} bytes")
    return data


def write_file(path: PurePath, data: bytes, mode: int = 0o600) -> None:
    """Write a file aside and rename it, so that a reader sees it whole or not at all. Raises OSError."""
    aside = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            os.fchmod(fd, mode)
        os.rename(aside, path)
    except BaseException as error:
        Path(aside).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # no space: a descriptor has no name
            error.filename = str(path)
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


def make_folder(path: PurePath, mode: int) -> None:
    """Make a folder, or take the one that is there, whoever changed its mode. A link is none. Raises OSError."""
    Path(path).mkdir(exist_ok=True)
    if os.path.islink(path):
        raise OSError(errno.ENOTDIR, "a symbolic link, not a folder", str(path))
    os.chmod(path, mode)


def clear_folder(path: PurePath) -> None:
    """Empty a folder that a stranger filled, now gone: no link is followed, no name, depth or mode is too odd.

    Folders in it are not gone down into, but brought up one level at a time, until there are none. Raises OSError.
    """
    top = os.open(path, _FOLDER)
    try:
        while folders := _remove_files(top):
            for name in folders:
                folder = os.open(name, _FOLDER, dir_fd=top)
                try:
                    for below in _remove_files(folder):
                        os.rename(below, f".{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
                finally:
                    os.close(folder)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _remove_files(folder: int) -> list[str]:
    """Remove everything in a folder but folders, which are returned and can be opened and moved then."""
    names = []
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.name, 0o700, dir_fd=folder)
                names.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return names
