# SPDX-License-Identifier: Apache-2.0
"""A log whose length a guest decides, kept short: its beginning and its end stay.

A file that is full gets another name, and one with the old name begins anew. The first of them stays, since it has the
beginning; each later one takes the place of the one before it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePath
from typing import BinaryIO

from chslurm.host.files import open_append
from chslurm.jobdir import name_first_part, name_part_before

_PARTS = 3
"""The beginning, what came before, and what is being written."""

_WAITING_BYTES = 1 << 20
"""When so much waits to be written, who writes waits, too."""


class ShortLog:
    """One such file and the two beside it, written in a thread: the file system may be slow.

    What can't be written is lost: the file system is full, or gone, and guests don't end for that.
    """

    def __init__(self, path: PurePath, most_bytes: int) -> None:
        self.path = path
        self._first, self._before = name_first_part(path), name_part_before(path)
        self._part_bytes = most_bytes // _PARTS
        self._waiting = bytearray()
        self._work: asyncio.Task[None] | None = None
        self._file: BinaryIO | None = None
        self._size = 0  # of the file, with our own line
        self._line_size = 0
        self._has_first = False
        self._before_bytes = 0
        self._gone_bytes = 0

    def start(self) -> None:
        """Have it there, for those who look before anything is written."""
        self._write(b"")

    async def write(self, data: bytes) -> None:
        """Have it written soon."""
        self._waiting += data
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_waiting())
        if len(self._waiting) > _WAITING_BYTES:
            await asyncio.wait([self._work])

    async def finish(self) -> None:
        """Wait until all is written, and let go of the file."""
        if self._work is not None:
            await asyncio.wait([self._work])
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _write_waiting(self) -> None:
        while self._waiting:
            data, self._waiting = self._waiting, bytearray()
            await asyncio.to_thread(self._write, bytes(data))

    def _write(self, data: bytes) -> None:
        with suppress(OSError):
            if self._file is None:
                self._file = open_append(self.path)
                self._size = os.fstat(self._file.fileno()).st_size
            while data:
                if self._size >= self._part_bytes:
                    self._file = self._begin_anew(self._file)
                    self._tell_rest()
                written = self._file.write(data[: self._part_bytes - self._size])
                self._size += written
                data = data[written:]

    def _begin_anew(self, full: BinaryIO) -> BinaryIO:
        size = self._size - self._line_size
        part = self._before if self._has_first else self._first
        with suppress(FileNotFoundError):  # somebody has taken it away
            os.replace(self.path, part)
        try:
            file = open_append(self.path)
        except OSError:  # so many files are not allowed: then its end alone stays
            os.replace(part, self.path)
            file = full
            file.truncate(0)
            self._gone_bytes += self._before_bytes + size
            self._before_bytes = 0
        else:
            full.close()
            if self._has_first:
                self._gone_bytes += self._before_bytes
                self._before_bytes = size
            self._has_first = True
        self._size = self._line_size = 0
        return file

    def _tell_rest(self) -> None:
        """Begin the file with a line of ours. When there is no room for that, there is none for what follows either."""
        assert self._file is not None
        self._size = self._line_size = self._file.write(f"[chslurm: {self._describe_rest()}]\n".encode())

    def _describe_rest(self) -> str:
        gone = f"{self._gone_bytes} bytes"
        if self._before_bytes:
            between = f"the beginning in {self._first.name}, {gone} between them are gone"
            return f"what came before this is in {self._before.name}, {between}"
        if self._gone_bytes:
            return f"{gone} before this are gone" + (f", the beginning is in {self._first.name}" * self._has_first)
        return f"what came before this is in {self._first.name}"


async def record(reader: asyncio.StreamReader, log: ShortLog, show: Callable[[bytes], None]) -> None:
    """Write what comes from QEMU until it has ended, and show it at once."""
    try:
        while data := await reader.read(65536):
            show(data)
            await log.write(data)
    except OSError:  # QEMU has ended
        pass
    finally:
        await log.finish()
