# SPDX-License-Identifier: Apache-2.0
"""What a host makes of a guest's words. QEMU is a stand-in that only notes what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chslurm.guest import Disk
from chslurm.host import steward as module
from chslurm.host.disks import GuestDisks
from chslurm.host.qemu import Qemu
from chslurm.host.steward import Steward
from chslurm.messages import Event, EventKind, GuestOrder, GuestWord, GuestWordKind
from chslurm.plan import Plan


@dataclass
class FakeQemu:
    """What a steward needs of a QEMU."""

    said: list[GuestOrder] = field(default_factory=list)
    quits: int = 0
    console: Any = field(default_factory=SimpleNamespace)

    def say(self, order: GuestOrder) -> None:
        self.said.append(order)

    def quit(self) -> None:
        self.quits += 1


@pytest.fixture
def guest(plan_of: Callable[..., Plan]) -> tuple[Steward, FakeQemu, list[Event]]:
    qemu, events = FakeQemu(), list[Event]()
    disks = GuestDisks(Disk("/none"), Disk("/none"))
    steward = Steward(plan_of().guests[0], cast(Qemu, qemu), disks, Path("/none"), events.append)
    return steward, qemu, events


def hear(steward: Steward, kind: GuestWordKind, **fields: Any) -> None:
    steward.qemu.on_word(GuestWord(kind, **fields))


def test_a_guest_that_reports_too_much_is_ended(guest: tuple[Steward, FakeQemu, list[Event]]) -> None:
    steward, qemu, _ = guest
    for number in range(1001):
        hear(steward, GuestWordKind.STAGE, name=f"stage{number}")
    assert qemu.quits == 1


def test_long_work_may_take_many_words_but_not_many_a_second(
    guest: tuple[Steward, FakeQemu, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    steward, qemu, events = guest
    clock = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for number in range(3000):
        clock[0] += 0.5 if number < 200 else 1000.0
        hear(steward, GuestWordKind.STAGE, name=f"20-users-{number}-files")
        hear(steward, GuestWordKind.HELLO, kernel="6.1", protocol=2)
    assert qemu.quits == 0
    times = [event.text for event in events if event.text.endswith("-files")]
    assert times[:3] == ["20-users-0-files", "20-users-2-files", "20-users-4-files"]
    assert 100 < len(times) < 1200  # in 32 days


def test_the_size_waits_until_the_guest_can_take_it(guest: tuple[Steward, FakeQemu, list[Event]]) -> None:
    steward, qemu, events = guest
    steward.resize(50, 132)
    hear(steward, GuestWordKind.HELLO, kernel="6.1", protocol=2)
    assert qemu.said == []
    hear(steward, GuestWordKind.READY)
    steward.resize(24, 80)
    assert qemu.said == [GuestOrder(op="resize", rows=r, columns=c) for r, c in ((50, 132), (24, 80))]
    assert [event.kind for event in events] == [EventKind.GUEST_STAGE, EventKind.GUEST_READY]


def test_an_old_agent_is_not_told_a_size(guest: tuple[Steward, FakeQemu, list[Event]]) -> None:
    steward, qemu, _ = guest
    hear(steward, GuestWordKind.HELLO, kernel="6.1", protocol=1)
    hear(steward, GuestWordKind.READY)
    steward.resize(50, 132)
    assert qemu.said == []


def test_signals_are_passed_on_while_the_job_runs(
    guest: tuple[Steward, FakeQemu, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    steward, qemu, events = guest
    clock = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    steward.signal("USR1")
    assert qemu.said == []
    hear(steward, GuestWordKind.JOB_STARTED)
    hear(steward, GuestWordKind.BARRIER, name="chslurm.signal.1")
    steward.signal("USR1")
    steward.signal("USR1")  # by another way
    steward.signal("USR2")
    clock[0] += 60
    steward.signal("USR1")
    told = [(order.text, order.barrier) for order in qemu.said]
    one_by_one = [("USR1\n", "chslurm.signal.1"), ("USR2\n", "chslurm.signal.2"), ("USR1\n", "chslurm.signal.3")]
    assert told == [pair for text, barrier in one_by_one for pair in ((text, ""), ("", barrier))]
    assert [order.name for order in qemu.said[::2]] == ["signal.1", "signal.2", "signal.3"]
    hear(steward, GuestWordKind.JOB_ENDED)
    steward.signal("USR2")
    assert len(qemu.said) == 6
    assert [event.kind for event in events] == [EventKind.JOB_STARTED, EventKind.JOB_ENDED]


def test_a_flood_of_signals_does_not_use_up_the_barriers_of_an_agent(
    guest: tuple[Steward, FakeQemu, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    steward, qemu, _ = guest
    times = iter(range(0, 10_000, 10))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(times))))
    hear(steward, GuestWordKind.JOB_STARTED)
    for _ in range(100):
        steward.signal("USR1")
    assert len(qemu.said) == 2 * 16
