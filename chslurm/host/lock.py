# SPDX-License-Identifier: Apache-2.0
"""One cluster in one job directory: a lock that ends with its holder, or a lease where the file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from chslurm.errors import UsageError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY}


@contextmanager
def hold_lock(path: PurePath, name: str) -> Iterator[None]:
    """Hold the lock on `path`, a file that is made if need be. Raises UsageError when another process has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if _try_lock(fd, name):
            yield
        else:
            with _hold_lease(_lease_of(path), name):
                yield
    finally:
        os.close(fd)


def check_unlocked(path: PurePath, name: str) -> None:
    """Raise UsageError when another process holds the lock now. Makes nothing."""
    _check_lease(_lease_of(path), name)
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _try_lock(fd, name)
        finally:
            os.close(fd)


def _try_lock(fd: int, name: str) -> bool:
    """Return False when this file system knows no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _is_taken(name) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _lease_of(path: PurePath) -> Path:
    return Path(path.with_name(path.name + ".lease"))


@contextmanager
def _hold_lease(lease: Path, name: str) -> Iterator[None]:
    """The lease is a file that only one process can make; it says who did, and is taken away at the end."""
    _check_lease(lease, name)
    lease.unlink(missing_ok=True)
    try:
        fd = os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise _is_taken(name) from error
    with open(fd, "w") as file:
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
    try:
        yield
    finally:
        lease.unlink(missing_ok=True)


def _check_lease(lease: Path, name: str) -> None:
    """A lease counts unless its process was here and has ended."""
    try:
        host, pid = lease.read_text().split()
    except FileNotFoundError:
        return
    except ValueError:
        raise _is_taken(name, lease) from None
    if host != socket.gethostname() or Path("/proc", pid).exists():
        raise _is_taken(name, lease)


def _is_taken(name: str, lease: Path | None = None) -> UsageError:
    hint = "use another name, or stop that cluster first"
    if lease is not None:
        hint += f"; if none runs, remove {lease}"
    return UsageError(f"{name}: another cluster runs in it", hint=hint)
