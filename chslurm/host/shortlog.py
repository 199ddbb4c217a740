# SPDX-License-Identifier: Apache-2.0
"""A file that QEMU writes and a guest decides the length of, kept short: its beginning and its end stay.

QEMU keeps the file open, so it never gets another name: what is in it is copied away, and it is emptied. The first time
that is the beginning, which stays; later it takes the place of what was copied before. So whoever is killed at
any moment leaves what was printed last, and who follows the file (`tail -F`) sees it begin anew.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import PurePath
from typing import BinaryIO

from chslurm.host.files import open_append
from chslurm.jobdir import name_first_part, name_part_before

_PARTS = 4
"""The beginning, what was copied last, what is being written, and room for what comes while it is copied."""

_LOOK_S = 5.0
_BLOCK_BYTES = 1 << 20


class ShortLog:
    """One such file, empty or not there in the beginning, and the two beside it."""

    def __init__(self, path: PurePath, most_bytes: int) -> None:
        self.path = path
        self._part_bytes = most_bytes // _PARTS
        self._new_bytes = 0
        self._gone_bytes = 0
        self._line = b""  # of ours, with which the file begins
        self._line_before = b""  # with which that begins which was copied last

    async def grow(self, size: int) -> None:
        """Take in that so much was written. Who is not read from while this waits can't write any more."""
        self._new_bytes += size
        if self._new_bytes >= self._part_bytes:  # or less: some of that may have been copied before it was told of
            self._new_bytes = await asyncio.to_thread(self.shorten)

    async def watch(self) -> None:
        """Look at the file for ever, where nobody tells how it grows."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await asyncio.to_thread(self.shorten)

    def shorten(self) -> int:
        """Copy away what is in the file, if it has become too long, and return how long it is then.

        What can't be copied stays until it has grown as much again: it is as if it were empty.
        """
        with suppress(OSError):  # full, or gone: guests don't end for that
            fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size >= self._part_bytes:
                    self._begin_anew(fd)
                return os.fstat(fd).st_size
            finally:
                os.close(fd)
        return 0

    def _begin_anew(self, fd: int) -> None:
        first, before = name_first_part(self.path), name_part_before(self.path)
        with open_append(before if self._line else first) as part:
            self._gone_bytes += max(0, os.fstat(part.fileno()).st_size - len(self._line_before))
            part.truncate(0)
            self._line_before = b""
            try:
                copied = _copy(fd, part, 2 * self._part_bytes)
            except OSError:
                part.truncate(0)  # who needs the space more than this are jobs
                raise
        # What QEMU writes from here to the last line of this is lost: what it prints in that time, if it does.
        self._gone_bytes += os.fstat(fd).st_size - copied
        if self._line:
            where = f"{before.name}, the beginning in {first.name}, {self._gone_bytes} bytes between them are gone"
        else:
            where = first.name
        self._line_before, self._line = self._line, f"[chslurm: what came before this is in {where}]\n".encode()
        os.pwrite(fd, self._line, 0)
        os.truncate(fd, len(self._line))


def _copy(source: int, target: BinaryIO, most_bytes: int) -> int:
    """Copy from the beginning to the end, wherever that is by then; return how much."""
    size = 0
    while size < most_bytes and (block := memoryview(os.pread(source, _BLOCK_BYTES, size))):
        size += len(block)
        while block:
            block = block[target.write(block) :]
    return size
