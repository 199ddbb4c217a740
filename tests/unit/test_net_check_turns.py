# SPDX-License-Identifier: Apache-2.0
"""The head's turns of a check of the network: what it tells, what it waits for, and guests that lie about files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chslurm.errors import ChslurmError
from chslurm.filters import Family
from chslurm.host.trial import NetworkTrial
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, Order, OrderKind
from chslurm.plan import Mode, NetworkKind, Plan, plan_digest
from chslurm.trial import GuestOrders, GuestPart, GuestReport, HostOrders, HostWord


class Turns:
    """A trial, and the hosts and guests that it talks to."""

    def __init__(self, plan: Plan, folder: Path, without: list[tuple[Family, ...]], **more: Any) -> None:
        host = dataclasses.replace(plan.hosts[0], number=1, first_guest=0, guest_ct=2)
        guests = tuple(dataclasses.replace(plan.guests[0], id=n, host=1, slot=n + 1) for n in range(2))
        self.plan = dataclasses.replace(
            plan, job_dir=str(folder), hosts=(host,), guests=guests, trial=True, **{"mode": Mode.WORKSTATION, **more}
        )
        self.dir = JobDir(folder)
        for part in (self.dir.meta, self.dir.sync, self.dir.test, self.dir.run):
            Path(part).mkdir()
        self.notes: list[str] = []
        self.trial = NetworkTrial(without, self.notes.append, short=True)
        self.now_s = 0.0
        self.trial.begin(self.plan)

    def begin(self) -> list[Order]:
        self.say(HostWord(0, ("10.99.0.1",), 4001, 4002, 4003))
        for guest in self.plan.guests:
            self.trial.hear(Event(EventKind.JOB_STARTED, 1, guest=guest.id))
        return self.trial.take_turn(self.now_s)

    def say(self, word: HostWord) -> None:
        self.trial.hear(Event(EventKind.TRIAL, 1, text=msgspec.json.encode(word).decode()))

    def host_orders(self, orders: list[Order]) -> HostOrders:
        """What hosts are told, checked as they check it."""
        text = Path(self.dir.trial).read_bytes()
        assert [(order.kind, order.text) for order in orders] == [(OrderKind.TRIAL, plan_digest(text))]
        return msgspec.json.decode(text, type=HostOrders)

    def guest_orders(self) -> GuestOrders:
        return msgspec.json.decode(Path(self.dir.orders).read_bytes(), type=GuestOrders)

    def report(self, turn: int, *, seen: tuple[tuple[int, int], ...] = (), less: int = 0) -> None:
        told = self.guest_orders()
        for guest in self.plan.guests:
            sent = len(told.guests.get(str(guest.id), GuestPart()).frames) - less
            text = msgspec.json.encode(GuestReport(turn, max(sent, 0), (), (), seen if guest.id else (), {}))
            Path(self.dir.report(guest.id, turn)).write_bytes(text)


@pytest.fixture
def turns(plan_of: Callable[..., Plan], tmp_path: Path) -> Turns:
    return Turns(plan_of(), tmp_path, [(), tuple(Family)])


def test_filters_go_first_then_probes_are_sent_then_all_report(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chslurm.host.trial._SETTLE_S", 0.0)
    orders = turns.begin()
    for number, without in enumerate(((), tuple(Family))):
        first = 3 * number + 1
        told = turns.host_orders(orders)
        assert (told.turn, told.number, told.without, told.hosts) == (first, number, without, {})
        turns.say(HostWord(first))
        assert not turns.trial.take_turn(0.0)  # guests that do not watch yet would see nothing
        turns.report(first)
        told = turns.host_orders(turns.trial.take_turn(0.0))
        assert (told.turn, list(told.hosts)) == (first + 1, ["1"])
        acting = turns.guest_orders()
        assert acting.turn == first + 1
        assert "0" in acting.guests
        turns.say(HostWord(first + 1, opened="0"))
        turns.report(first + 1)
        told = turns.host_orders(turns.trial.take_turn(0.0))
        assert (told.turn, told.hosts, turns.guest_orders().guests) == (first + 2, {}, {})
        turns.say(HostWord(first + 2, seen={"bridge": "8"}))
        turns.report(first + 2, seen=((number, 5), (1 - number, 6)))
        orders = turns.trial.take_turn(0.0)
        assert turns.trial.passes[number].seen["chgu1"] == {5}
        assert turns.trial.passes[number].seen[f"bridge of {turns.plan.hosts[0].name}"] == {3}
    assert turns.guest_orders().end
    assert len(turns.notes) == 2


def test_frames_for_gateways_that_only_root_sees_are_counted_apart(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doors and pings come first, then quiet, then frames between two counts."""
    monkeypatch.setattr("chslurm.host.trial._SETTLE_S", 0.0)
    monkeypatch.setattr("chslurm.host.trial._QUIET_S", 0.0)
    turns = Turns(plan_of(), tmp_path, [()], mode=Mode.CLUSTER, network=NetworkKind.SITE)
    turns.begin()
    turns.say(HostWord(1))
    turns.report(1)
    turns.trial.take_turn(0.0)
    first = turns.guest_orders().guests["0"]
    assert (first.frames, bool(first.doors), bool(first.pings)) == ((), True, True)
    turns.say(HostWord(2, carried=90))
    turns.report(2)
    turns.trial.take_turn(0.0)
    assert turns.guest_orders().turn == 2
    turns.say(HostWord(3, carried=100))
    turns.trial.take_turn(0.0)
    then = turns.guest_orders()
    assert (then.turn, len(then.guests["0"].frames) > 100, then.guests["0"].doors) == (3, True, ())
    turns.report(3)
    turns.trial.take_turn(0.0)
    turns.say(HostWord(4, carried=107))
    turns.report(4)
    turns.trial.take_turn(0.0)
    assert turns.trial.passes[0].carried == {turns.plan.hosts[0].name: 7}
    assert turns.guest_orders().end


def test_who_says_nothing_is_named(turns: Turns) -> None:
    turns.trial.take_turn(0.0)
    with pytest.raises(ChslurmError, match=turns.plan.hosts[0].name):
        turns.trial.take_turn(1000.0)


def test_a_late_guest_is_waited_for_as_long_as_it_may_boot(turns: Turns) -> None:
    turns.say(HostWord(0))
    turns.trial.take_turn(0.0)
    assert not turns.trial.take_turn(turns.plan.deadlines.ready_s)
    with pytest.raises(ChslurmError, match="chgu0, chgu1"):
        turns.trial.take_turn(turns.plan.deadlines.ready_s + 1000)


def act(turns: Turns) -> None:
    """Come to where guests have to report."""
    turns.begin()
    turns.say(HostWord(1))
    turns.report(1)
    turns.trial.take_turn(0.0)
    turns.say(HostWord(2))


def test_a_guest_that_has_sent_less_than_it_should_proves_nothing(turns: Turns) -> None:
    act(turns)
    turns.report(2, less=1)
    with pytest.raises(ChslurmError, match="guest 0 has not sent all"):
        turns.trial.take_turn(0.0)


def test_a_guest_that_reports_nonsense_ends_the_check(turns: Turns) -> None:
    act(turns)
    turns.report(2)
    Path(turns.dir.report(1, 2)).write_bytes(b'{"turn": 2}')
    with pytest.raises(ChslurmError, match="guest 1 reports what makes no sense"):
        turns.trial.take_turn(0.0)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_a_regular_file_is_a_report(turns: Turns, make: Callable[[Path], None]) -> None:
    act(turns)
    turns.report(2)
    path = Path(turns.dir.report(1, 2))
    path.unlink()
    make(path)
    turns.trial.take_turn(0.0)
    with pytest.raises(ChslurmError, match=r"no word in 120 s of: chgu1"):
        turns.trial.take_turn(1000.0)


def test_orders_of_an_earlier_check_are_replaced_before_guests_boot(turns: Turns) -> None:
    assert (turns.guest_orders().turn, turns.guest_orders().end) == (0, False)
