# SPDX-License-Identifier: Apache-2.0
"""The head's journal, which also tells when there is no room left where the job's output goes.

Nobody else could say so: QEMU keeps what a guest prints until it can write it, and the job waits.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import BinaryIO

from chslurm.host.files import open_append

_LOOK_S = 5.0
_FULL_BYTES = 1 << 20
"""With less than this a file system is full: who writes more than a line finds out before we do."""


class Journal:
    """Made by `start_journal`. What can't be written is left out: a full disk is no reason to stop supervising."""

    def __init__(self, file: BinaryIO, folder: PurePath, note: Callable[[str], None]) -> None:
        self._file = file
        self._folder = folder
        self._note = note
        self._trouble = ""
        self._next_look_s = 0.0

    def write(self, line: bytes) -> None:
        """Write a line, and say it when that can't be done, or when it can again."""
        trouble = ""
        try:
            self._file.write(line)
        except OSError as error:
            trouble = error.strerror or type(error).__name__
        if not trouble and time.monotonic() < self._next_look_s:
            return
        self._next_look_s = time.monotonic() + _LOOK_S
        if not trouble and self._is_full():
            trouble = os.strerror(errno.ENOSPC)
        if trouble and not self._trouble:
            self._note(f"can't write into {self._folder}: {trouble}; jobs that print wait until that is over")
        elif self._trouble and not trouble:
            self._note(f"can write into {self._folder} again: jobs that print go on")
        self._trouble = trouble

    def _is_full(self) -> bool:
        try:
            found = os.fstatvfs(self._file.fileno())
        except OSError:
            return False
        return found.f_blocks > 0 and found.f_bavail * found.f_frsize < _FULL_BYTES


@contextmanager
def start_journal(path: PurePath, folder: PurePath, note: Callable[[str], None]) -> Iterator[Journal]:
    """Open the journal; `note` is told of trouble in `folder`, where output goes, too. Raises OSError."""
    with open_append(path) as file:
        yield Journal(file, folder, note)
