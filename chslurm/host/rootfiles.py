# SPDX-License-Identifier: Apache-2.0
"""What root's parts have in common: nothing that a user can write, or made beforehand, is read, followed or relied on.

Settings are read from files that only root can write, up to the root directory. State lies in a folder of root's below
/run that nobody else can look into; whoever works on it holds it locked. A lock ends with its process, and the folder
goes with its last file: there is nothing to clean up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from typing import BinaryIO

from chslurm.errors import ChslurmError, UsageError

STATE_FOLDER = Path("/run/chslurm-site")
WRITABLE = stat.S_IWGRP | stat.S_IWOTH  # with an access list, the group's bits are its mask

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_BYTES = 64 << 10
_LOCK_TIMEOUT_S = 20.0
_OPEN = stat.S_IRWXG | stat.S_IRWXO


def forget_environment() -> None:
    """Keep nothing of what the caller's environment says, for us and all that we start; files are for root alone."""
    os.environ.clear()
    os.environ.update({"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": "/", "TERM": "dumb"})
    os.umask(0o077)


def read_root_file(path: PurePath, most_bytes: int = _MOST_BYTES, *, secret: bool = False) -> str:
    """Return the text of a file that only root can change. Raises UsageError for one that others could, or a link.

    A `secret` one only root can read, too.
    """
    with ExitStack() as opened:
        folder = os.open("/", _FOLDER)
        opened.callback(os.close, folder)
        for name in path.parts[1:-1]:
            try:
                folder = os.open(name, _FOLDER, dir_fd=folder)
            except OSError as error:
                raise _refusal(path, f"folder {name}: {_tell(error)}") from error
            opened.callback(os.close, folder)
            _check_owner(os.fstat(folder), path, f"folder {name}")
        return _read(folder, path, most_bytes, _OPEN if secret else WRITABLE)


def _read(folder: int, path: PurePath, most_bytes: int, barred: int) -> str:
    try:
        fd = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise _refusal(path, _tell(error)) from error
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _refusal(path, "not a regular file")
        _check_owner(found, path, "it")
        if found.st_mode & barred:
            raise _refusal(path, "others than root can read it", "chmod 600 it, and make another key")
        return read_bounded_text(file, f"can't use {path}", most_bytes)


def read_bounded_text(file: BinaryIO, name: str, most_bytes: int = _MOST_BYTES) -> str:
    """Return the text of an open file, from where it stands. Raises UsageError, which begins with `name`."""
    data = file.read(most_bytes + 1)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not text") from error
    if len(data) > most_bytes:
        raise UsageError(f"{name}: longer than {most_bytes} bytes")
    return text


def _check_owner(found: os.stat_result, path: PurePath, what: str) -> None:
    if found.st_uid != 0 or found.st_mode & WRITABLE:
        raise _refusal(path, f"others than root can change {what}", "chown it to root, and chmod go-w")


def _tell(error: OSError) -> str:
    """Of a link the kernel says too many levels, or no directory."""
    linked = error.errno in (errno.ELOOP, errno.ENOTDIR)
    return "a symbolic link, or no folder" if linked else str(error.strerror)


def _refusal(path: PurePath, why: str, hint: str = "") -> UsageError:
    return UsageError(f"can't use {path}: {why}", hint=hint)


@contextmanager
def lock_state(folder: Path = STATE_FOLDER) -> Iterator[Path]:
    """Hold root's folder of state, made if need be, and give it away empty. Raises ChslurmError."""
    fd = _open_locked(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):  # not empty
            os.rmdir(folder)
        os.close(fd)


def make_state_folder(folder: Path) -> None:
    """Make a folder of root's for folders of state, which stays. Raises ChslurmError when somebody else has made it."""
    os.close(_open_folder(folder))


def write_state(folder: Path, name: str, data: bytes) -> None:
    """Write a file of the held folder, whole or not at all. Raises ChslurmError."""
    from chslurm.host.files import write_file

    try:
        for left in folder.glob(f".{name}.*"):  # of one that was killed while it wrote
            left.unlink()
        write_file(folder / name, data)
    except OSError as error:
        raise ChslurmError(f"can't write {folder / name}: {error.strerror}") from error


def read_state(folder: Path, name: str) -> bytes | None:
    """Return a file of the held folder; None when there is none."""
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        return None


def remove_state(folder: Path, name: str) -> None:
    """Remove a file of the held folder, and what a write that was killed has left of it."""
    for path in (*folder.glob(f".{name}.*"), folder / name):
        path.unlink(missing_ok=True)


def _open_locked(folder: Path) -> int:
    until_s = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        fd = _open_folder(folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:  # else another has just given it away
                return fd
        except BlockingIOError as error:
            if time.monotonic() > until_s:
                os.close(fd)
                hint = "is another start or stop under way?"
                raise ChslurmError(f"can't lock {folder}: held for {_LOCK_TIMEOUT_S:g} s", hint=hint) from error
        os.close(fd)
        time.sleep(0.02)


def _open_folder(folder: Path) -> int:
    fd = None
    while fd is None:  # again, when another gives the folder away between the two calls
        try:
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            fd = _open_if_there(folder)
        except OSError as error:
            raise ChslurmError(f"can't use {folder}: {error.strerror}", hint="remove what is there") from error
    found = os.fstat(fd)
    if found.st_uid != 0 or stat.S_IMODE(found.st_mode) != 0o700:
        os.close(fd)
        hint = "remove it: somebody else made it"
        raise ChslurmError(f"can't use {folder}: not root's alone", hint=hint)
    return fd


def _open_if_there(folder: Path) -> int | None:
    try:
        return os.open(folder, _FOLDER)
    except FileNotFoundError:
        return None
