# SPDX-License-Identifier: Apache-2.0
"""The head's journal, which also tells when there is no room left where the job's output goes.

Nobody else could say so: QEMU keeps what a guest prints until it can write it, and the job waits.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from chslurm.host.files import open_append, read_clock

_LOOK_S = 5.0
_NOTE_S = 60.0
_FULL_BYTES = 1 << 20
"""With less than this a file system is full: who writes more than a line finds out before we do."""
_ROOM_BYTES = 16 << 20
"""With more than this it is no longer full."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_KEPT_LINES = 1000


class Journal:
    """Made by `start_journal`. What can't be written waits until it can: a full disk does not end the supervision."""

    def __init__(self, file: BinaryIO, folder: Path, note: Callable[[str], None]) -> None:
        self._file = file
        self._room = _Room(folder, note)
        self._rest = b""  # of a line that has been begun
        self._lines = deque[bytes](maxlen=_KEPT_LINES)  # then the oldest are lost
        self._error: OSError | None = None

    def write(self, line: bytes) -> None:
        """Write a line, now or later."""
        self._lines.append(line)
        self.write_out()

    def write_out(self) -> None:
        """Write what waits, as far as there is room."""
        try:
            while self._rest or self._lines:
                self._rest = self._rest or self._lines.popleft()
                self._rest = self._rest[self._file.write(self._rest) :]
            self._error = None
        except OSError as error:
            self._error = error

    def look(self, now_s: float) -> None:
        """Write what waits, and say it when that can't be done, or when it can again. To be called all the time."""
        if self._room.is_due(now_s):
            self.write_out()
            self._room.look(self._file.fileno(), self._error, now_s)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What is said of it, and when it is over."""

    words: str
    over: str


class _Room:
    """What is known of the room in a folder, and what was said about it."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = note
        self._full = _Trouble(
            f"no room left in {folder}: jobs that print wait until there is",
            f"there is room in {folder} again: jobs that print go on",
        )
        self._told: _Trouble | None = None
        self._next_look_s = self._next_note_s = self._next_try_s = 0.0
        self._quota_is_used_up = False

    def is_due(self, now_s: float) -> bool:
        return now_s >= self._next_look_s

    def look(self, fd: int, error: OSError | None, now_s: float) -> None:
        """Say what has changed, at most once a minute; `error` is what the journal has met, in the file `fd`."""
        self._next_look_s = now_s + _LOOK_S
        trouble = self._find_trouble(fd, error, now_s)
        if trouble == self._told or now_s < self._next_note_s:
            return
        self._next_note_s = now_s + _NOTE_S
        if trouble:
            self._note(trouble.words)
        elif self._told:
            self._note(self._told.over)
        self._told = trouble

    def _find_trouble(self, fd: int, error: OSError | None, now_s: float) -> _Trouble | None:
        if error is not None and error.errno not in _NO_ROOM:
            why = error.strerror or type(error).__name__
            return _Trouble(f"can't write into {self._folder}: {why}", f"{self._folder} can be written again")
        return self._full if error is not None or self._is_full(fd) or self._is_out_of_quota(now_s) else None

    def _is_full(self, fd: int) -> bool:
        try:
            found = os.fstatvfs(fd)
        except OSError:
            return False
        free = found.f_bavail if os.geteuid() else found.f_bfree  # the rest is kept for root
        least_bytes = _ROOM_BYTES if self._told == self._full else _FULL_BYTES
        return found.f_blocks > 0 and free * found.f_frsize < least_bytes

    def _is_out_of_quota(self, now_s: float) -> bool:
        """Seen only by who writes, and the journal may be silent for hours."""
        if now_s >= self._next_try_s:
            self._next_try_s = now_s + _NOTE_S
            try:
                read_clock(self._folder)  # it writes
                self._quota_is_used_up = False
            except OSError as error:
                self._quota_is_used_up = error.errno in _NO_ROOM
        return self._quota_is_used_up


@contextmanager
def start_journal(path: Path, folder: Path, note: Callable[[str], None]) -> Iterator[Journal]:
    """Open the journal; `note` is told of trouble in `folder`, where output goes, too. Raises OSError."""
    with open_append(path) as file:
        journal = Journal(file, folder, note)
        try:
            yield journal
        finally:
            journal.write_out()
