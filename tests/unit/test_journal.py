# SPDX-License-Identifier: Apache-2.0
"""What the user is told when there is no room for the output of his job, and what becomes of the journal meanwhile."""

from __future__ import annotations

import errno
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from chslurm import cluster
from chslurm.cluster import Head
from chslurm.host import journal as module
from chslurm.host.journal import Journal, start_journal
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind
from chslurm.plan import Plan

MIB = 1 << 20
NO_ROOM = "no room left in {}: jobs that print wait until there is"
ROOM = "there is room in {} again: jobs that print go on"


class Disk(io.FileIO):
    """A file on a disk that takes so many bytes, and fails then."""

    room = 0
    error = errno.ENOSPC

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if not (data := data[: self.room]):
            raise OSError(self.error, os.strerror(self.error))
        self.room -= len(data)
        return super().write(data)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path / "events.jsonl", "w") as file:
        yield file


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def journal(disk: Disk, tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> Journal:
    set_free(monkeypatch, 100 * MIB)
    return Journal(disk, tmp_path, notes.append)


def set_free(monkeypatch: pytest.MonkeyPatch, free_bytes: int, reserved_bytes: int = 0, blocks: int = 10000) -> None:
    free = SimpleNamespace(
        f_blocks=blocks, f_frsize=512, f_bavail=free_bytes // 512, f_bfree=(free_bytes + reserved_bytes) // 512
    )
    monkeypatch.setattr(os, "fstatvfs", lambda fd: free)


def test_no_line_is_torn_or_lost(journal: Journal, disk: Disk, tmp_path: Path) -> None:
    for disk.room, line in zip((9, 9, 0, 2, 5, 99), (b"first", b"second", b"third", b"4", b"5", b"6"), strict=True):
        journal.write(line + b"\n")
    assert (tmp_path / "events.jsonl").read_bytes() == b"first\nsecond\nthird\n4\n5\n6\n"


def test_what_waits_is_bounded_and_no_line_is_glued_to_another(journal: Journal, disk: Disk, tmp_path: Path) -> None:
    disk.room = 3
    for number in range(3000):
        journal.write(b"line %d\n" % number)
    disk.room = 1 << 20
    journal.look(0.0)
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert lines == [b"line %d" % number for number in (0, *range(2000, 3000))]


def test_what_waits_is_written_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path / "events.jsonl", "w")
    monkeypatch.setattr(module, "open_append", lambda path: disk)
    with start_journal(tmp_path / "events.jsonl", tmp_path, print) as journal:
        journal.write(b"line\n")
        disk.room = 99
    assert (tmp_path / "events.jsonl").read_bytes() == b"line\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_that_there_is_no_room_is_told_once(
    journal: Journal, disk: Disk, notes: list[str], tmp_path: Path, number: int
) -> None:
    disk.error = number
    journal.write(b"line\n")
    for now_s in range(0, 200, 5):
        journal.look(now_s)
    assert notes == [NO_ROOM.format(tmp_path)]
    disk.room = 99
    journal.look(200)
    assert notes == [NO_ROOM.format(tmp_path), ROOM.format(tmp_path)]


def test_other_errors_do_not_say_that_jobs_wait(journal: Journal, disk: Disk, notes: list[str], tmp_path: Path) -> None:
    disk.error = errno.EIO
    journal.write(b"line\n")
    journal.look(0)
    disk.room = 99
    journal.look(100)
    assert notes == [f"can't write into {tmp_path}: Input/output error", f"{tmp_path} can be written again"]


def test_little_room_is_told_at_most_once_a_minute_until_there_is_much(
    journal: Journal, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for now_s, free_bytes in enumerate((2 * MIB, MIB - 512, 2 * MIB, 15 * MIB, 17 * MIB, 0, 17 * MIB)):
        set_free(monkeypatch, free_bytes)
        journal.look(100 * now_s)
        told.append(len(notes))
    assert told == [0, 1, 1, 1, 2, 3, 4]
    assert notes == [NO_ROOM.format(tmp_path), ROOM.format(tmp_path)] * 2
    for now_s, free_bytes in zip(range(700, 1000, 5), itertools.cycle((0, 17 * MIB)), strict=False):
        set_free(monkeypatch, free_bytes)
        journal.look(now_s)
    assert len(notes) <= 4 + 300 / 60


def test_what_is_kept_for_root_is_room_for_root_only(
    journal: Journal, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free(monkeypatch, 0, reserved_bytes=100 * MIB)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    journal.look(0)
    assert notes == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    journal.look(100)
    assert len(notes) == 1


def test_a_quota_is_noticed_though_nothing_happens(
    journal: Journal, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> float:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_clock", refuse)
        journal.look(0)
        journal.look(5)
    assert notes == [NO_ROOM.format(tmp_path)]
    journal.look(100)
    assert notes == [NO_ROOM.format(tmp_path), ROOM.format(tmp_path)]


def test_a_file_system_that_does_not_tell_is_not_full(
    journal: Journal, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free(monkeypatch, 0, blocks=0)
    journal.look(0)
    assert notes == []


class FakeStep:
    """A step of which events come, one a turn, while the terminal shows a guest, but in the end."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.screen_is_taken = True

    def take(self, timeout_s: float) -> list[Event]:
        return [self.events.pop(0)]

    def send(self, order: object) -> None:
        pass

    def give_back(self) -> None:
        self.screen_is_taken = False


class FakeProgress:
    def __init__(self, step: FakeStep) -> None:
        self.step = step
        self.notes: list[tuple[bool, str]] = []

    def note(self, text: str) -> None:
        self.notes.append((self.step.screen_is_taken, text))

    def update(self, states: object, ready: int, total: int) -> None:
        pass

    def pause(self, paused: bool) -> None:
        pass


def test_a_head_writes_no_pulses_and_speaks_into_no_guests_screen(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(2)
    job_dir = JobDir(tmp_path)
    Path(job_dir.run).mkdir()
    monkeypatch.setattr(cluster, "renew_job_dir", lambda plan: False)
    set_free(monkeypatch, 0)
    pulses = [Event(EventKind.PULSE, 1), Event(EventKind.PULSE, 2)] * 5
    step = FakeStep([Event(EventKind.NODE_UP, 1), *pulses, Event(EventKind.STEP_ENDED, 0, status=1, text="text")])
    progress = FakeProgress(step)
    head = Head(plan, step, progress, step, unseen=False, trial=None)  # type: ignore[arg-type]
    head.job_dir = job_dir
    summary = head.supervise()
    text = Path(job_dir.events).read_text()
    assert '"node_up"' in text
    assert '"step_ended"' in text
    assert '"pulse"' not in text
    assert (False, NO_ROOM.format(tmp_path)) in progress.notes
    assert all(not taken for taken, _ in progress.notes)
    assert NO_ROOM.format(tmp_path) in summary.notes
