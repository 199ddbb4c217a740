# SPDX-License-Identifier: Apache-2.0
"""What the user is told when there is no room for the output of his job."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from chslurm.host import journal as module
from chslurm.host.journal import Journal, start_journal

FULL = "can't write into /j: No space left on device; jobs that print wait until that is over"
AGAIN = "can write into /j again: jobs that print go on"


def test_what_can_not_be_written_is_told_once(tmp_path: Path) -> None:
    notes = list[str]()
    with open("/dev/full", "wb", 0) as full, open(tmp_path / "file", "wb", 0) as file:
        journal = Journal(full, Path("/j"), notes.append)
        journal.write(b"1\n")
        journal.write(b"2\n")
        assert notes == [FULL]
        journal._file, journal._next_look_s = file, 0.0
        journal.write(b"3\n")
    assert notes == [FULL, AGAIN]


def test_a_disk_with_nothing_free_is_told_before_a_line_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, clock, free = list[str](), [100.0], [1000]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    found = lambda fd: SimpleNamespace(f_blocks=10000, f_bavail=free[0], f_frsize=4096)  # noqa: E731
    monkeypatch.setattr(os, "fstatvfs", found)
    with start_journal(tmp_path / "events.jsonl", Path("/j"), notes.append) as journal:
        for clock[0], free[0] in ((100.0, 1000), (103.0, 0), (106.0, 0), (112.0, 0), (118.0, 1000)):
            journal.write(b"line\n")
    assert notes == [FULL, AGAIN]
    assert (tmp_path / "events.jsonl").read_bytes() == b"line\n" * 5


def test_a_file_system_that_does_not_tell_is_not_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = list[str]()
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=4096))
    with start_journal(tmp_path / "events.jsonl", Path("/j"), notes.append) as journal:
        journal.write(b"line\n")
    assert notes == []
