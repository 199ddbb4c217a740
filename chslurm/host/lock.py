# SPDX-License-Identifier: Apache-2.0
"""One cluster in one job directory.

Two things keep others out. The lock (flock) ends with its holder, at once, but not every file system has locks, and on
some (Lustre with localflock, NFS with local_lock) they hold on one node only. So each head also lays a lease beside it:
a file of its own, by which it shows every few seconds that it lives. First it lays its lease, then it looks for others:
of two at the same time at least one sees the other, whoever comes later sees the earlier, and who sees a living one
gives way. A lease counts until it was not renewed for _SILENT_S; one of this machine, when it knows locks and the lock
is free, not at all. Ages are told by the clock of the file system, which is the same for all; that of a machine may be
minutes off. Who only looks, and so writes nothing there, brings another clock to be asked before a head is called dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from chslurm.errors import ChslurmError, UsageError

_SILENT_S = 60.0
"""A head that shows no life for so long is dead, or has to end when it comes back to life."""

_LOOK_S = 0.05
"""Longer than another process takes to look whether the lock is held (`is_held`)."""

_LOOKS = 6
"""How many such looks may follow each other before whoever has the lock is taken for its holder."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY}


class LeaseLost(ChslurmError):
    """Nothing in the job directory is ours any more."""


@dataclass(frozen=True, slots=True)
class _Lease:
    path: Path
    machine: str  # random for each boot of each machine; names of hosts may be shared
    holder: str
    renewed_unix_s: float


@contextmanager
def hold_lock(path: PurePath, lease: PurePath, name: str) -> Iterator[None]:
    """Hold the lock on `path`, a file that is made if need be, and lay `lease`, whose name begins with that of `path`.

    Call `renew_lease` meanwhile. Raises UsageError when another process has it, OSError when nothing can be written.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        locked = _try_lock(fd, path, name)
        now_s = _lay(lease, name)
        try:
            for other in list(_read_leases(path)):
                if other.path != Path(lease):
                    _check_dead(other, locked, now_s, name)
                    other.path.unlink(missing_ok=True)
            yield
        finally:
            Path(lease).unlink(missing_ok=True)
    finally:
        os.close(fd)


def renew_lease(lease: PurePath, name: str) -> None:
    """Show life. Raises LeaseLost when the lease is gone: we were silent too long, and another cluster took over."""
    try:
        os.utime(lease)
    except FileNotFoundError as error:
        raise LeaseLost(f"{name}: another cluster took it while this one showed no life") from error
    except OSError:  # the file system may come back in time
        return


def make_renewal(lease: PurePath, name: str, every_s: float) -> Callable[[], None]:
    """Return a function that shows life when it is time to; it may be called as often as one likes."""
    due_s = 0.0

    def renew() -> None:
        nonlocal due_s
        if (now_s := time.monotonic()) >= due_s:
            renew_lease(lease, name)
            due_s = now_s + every_s

    return renew


def check_unlocked(path: PurePath, name: str) -> None:
    """Raise UsageError when another process holds the lock now.

    Makes nothing, and tells ages by this machine's clock: only `hold_lock` knows for certain.
    """
    locked = False
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            locked = _try_lock(fd, path, name)
        finally:
            os.close(fd)
    for lease in _read_leases(path):
        _check_dead(lease, locked, time.time(), name)


def is_held(
    path: PurePath, lease: PurePath, *, read_clock: Callable[[], float] = time.time, silent_s: float = _SILENT_S
) -> bool:
    """Say whether the head that laid `lease` beside the lock `path` lives, as far as can be seen from here.

    Makes nothing and keeps no head out. Of a head on another machine whose lock isn't seen here, one that was killed
    counts as living until its lease was not renewed for `silent_s`, by this machine's clock and by `read_clock`, which
    is asked only when it matters. Raises OSError.
    """
    found = _read_lease(Path(lease))
    if found is None:
        return False
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        locked = _lock(fd, fcntl.LOCK_SH)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    if _died_with_its_lock(found, locked):
        return False
    return any(clock() - found.renewed_unix_s < silent_s for clock in (time.time, read_clock))


def _try_lock(fd: int, path: PurePath, name: str) -> bool:
    """Return False when this file system knows no locks."""
    for _ in range(_LOOKS):  # it may only have been looked at, by several
        with suppress(BlockingIOError):
            return _lock(fd, fcntl.LOCK_EX)
        time.sleep(_LOOK_S)
    try:
        return _lock(fd, fcntl.LOCK_EX)
    except BlockingIOError as error:
        raise _is_taken(name, next(_read_leases(path), None)) from error


def _lock(fd: int, how: int) -> bool:
    """Return False when this file system knows no locks. Raises BlockingIOError when another has it."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _lay(lease: PurePath, name: str) -> float:
    """Make our lease and return the time of the file system."""
    try:
        fd = os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise _is_taken(name, None) from error
    holder = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}"
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(f"{read_machine()}\n{holder}\n")
            file.flush()
            return os.fstat(fd).st_mtime
    except OSError:
        Path(lease).unlink(missing_ok=True)
        raise


def _read_leases(path: PurePath) -> Iterator[_Lease]:
    """Yield all leases."""
    found = (_read_lease(lease) for lease in Path(path.parent).glob(f"{path.name}.*"))
    yield from (lease for lease in found if lease is not None)


def _read_lease(lease: Path) -> _Lease | None:
    """Return a lease, None when it is gone; one that is not written yet or is damaged counts by its age alone."""
    try:
        fd = os.open(lease, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        machine, _, holder = file.read(1000).decode(errors="replace").partition("\n")
        # Of an open file a network file system knows the true age.
        return _Lease(lease, machine, holder.strip(), os.fstat(file.fileno()).st_mtime)


def _check_dead(lease: _Lease, locked: bool, now_s: float, name: str) -> None:
    if not _is_dead(lease, locked, now_s):
        raise _is_taken(name, lease, now_s)


def _is_dead(lease: _Lease, locked: bool, now_s: float) -> bool:
    return _died_with_its_lock(lease, locked) or now_s - lease.renewed_unix_s >= _SILENT_S


def _died_with_its_lock(lease: _Lease, locked: bool) -> bool:
    """`locked`: the lock could be had, so whoever had it on this machine is gone."""
    return locked and lease.machine == read_machine()


def read_machine() -> str:
    """Return what tells this machine, since it was booted, from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _is_taken(name: str, lease: _Lease | None, now_s: float | None = None) -> UsageError:
    who = f" ({lease.holder})" if lease is not None and lease.holder else ""
    hint = "use another name, or stop that cluster first"
    if lease is not None and now_s is not None:
        left_s = lease.renewed_unix_s + _SILENT_S - now_s
        hint += f"; if it died, try again in {left_s:.0f} s, or remove {lease.path}"
    return UsageError(f"{name}: another cluster runs in it{who}", hint=hint)
