# SPDX-License-Identifier: Apache-2.0
"""Files that others write, read as they grow."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import PurePath

from chslurm.plan import Plan
from chslurm.report import Summary, parse_summary

CHUNK_BYTES = 1 << 16
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LINE_MAX_BYTES = 1 << 16
_PULSE = b'"kind":"pulse"'
"""No text can be this: in JSON its quotes are escaped."""

_SUMMARY_MAX_BYTES = 16 << 20


class FollowedFile:
    """A file by its name, as `tail -F` follows it: when it was emptied or replaced, from its beginning.

    It is opened anew for each look: only then a network file system asks how it is now.
    """

    def __init__(self, path: PurePath) -> None:
        self.path = path
        self._inode: tuple[int, int] | None = None
        self._offset = 0

    def skip_to_last(self, lines: int) -> None:
        """Begin with the last `lines` lines that are there now; one without an end counts."""
        with _Opened(self.path) as (fd, found):
            if found is None:
                return
            self._inode = (found.st_dev, found.st_ino)
            end = found.st_size
            missing = lines + (end > 0 and os.pread(fd, 1, end - 1) == b"\n")
            self._offset = _find_last_lines(fd, end, missing) if lines else end

    @property
    def offset(self) -> int:
        """Where the next read begins."""
        return self._offset

    def skip(self, size: int) -> None:
        """Leave so many bytes out."""
        self._offset += size

    def measure_new(self) -> int:
        """Return how many bytes are new by now."""
        with _Opened(self.path) as (_, found):
            if found is None:
                return 0
            return found.st_size - (0 if self._is_anew(found) else self._offset)

    def read(self, most_bytes: int = CHUNK_BYTES) -> tuple[bytes, bool]:
        """Return what is new, at most CHUNK_BYTES, and whether the file has begun anew before that."""
        with _Opened(self.path) as (fd, found):
            if found is None:
                return b"", False
            anew = self._is_anew(found)
            if anew:
                self._offset = 0
            self._inode = (found.st_dev, found.st_ino)
            data = os.pread(fd, min(CHUNK_BYTES, most_bytes), self._offset)
            self._offset += len(data)
            return data, anew

    def _is_anew(self, found: os.stat_result) -> bool:
        known = self._inode is not None
        return known and ((found.st_dev, found.st_ino) != self._inode or found.st_size < self._offset)


def read_journal(path: PurePath) -> Iterator[bytes]:
    """Yield the lines of a journal, none when it is not there; one that is too long comes in parts.

    Pulses are left out: they were most of a journal when they were written, and tell only that a host was there.
    """
    with _Opened(path) as (fd, found):
        if found is not None:
            with open(fd, "rb", closefd=False) as file:
                while line := file.readline(_LINE_MAX_BYTES):
                    if _PULSE not in line:
                        yield line


def read_whole(path: PurePath, most_bytes: int) -> bytes:
    """Return what is in a file: nothing when it is not there or larger than this."""
    with _Opened(path) as (fd, found):
        return os.pread(fd, found.st_size, 0) if found is not None and found.st_size <= most_bytes else b""


def read_summary(path: PurePath, plan: Plan) -> Summary | None:
    """Return what came of a cluster; None when its head has not said that, or said it of another."""
    return parse_summary(read_whole(path, _SUMMARY_MAX_BYTES), plan)


class _Opened:
    """A regular file for a while; no link is followed, and what is none is as if it were not there."""

    def __init__(self, path: PurePath) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> tuple[int, os.stat_result | None]:
        try:
            self._fd = os.open(self._path, _FLAGS)
            found = os.fstat(self._fd)
        except OSError:
            return self._fd, None
        return self._fd, found if stat.S_ISREG(found.st_mode) else None

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _find_last_lines(fd: int, end: int, newlines: int) -> int:
    """Where the text after the `newlines`-th newline from the end begins."""
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        block = os.pread(fd, end - start, start)
        place = len(block)
        while newlines and (place := block.rfind(b"\n", 0, place)) >= 0:
            newlines -= 1
        if not newlines:
            return start + place + 1
        end = start
    return 0
