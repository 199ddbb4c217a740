# SPDX-License-Identifier: Apache-2.0
"""What a head wrote down, read by others: also torn, also while it is being written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.messages import Event, EventKind
from chslurm.phases import Cause, Phase
from chslurm.plan import Plan
from chslurm.report import make_summary, parse_summary, summary_to_json
from chslurm.supervise import Supervisor
from chslurm.survey import make_survey, render_phase_entry


class Journal:
    """A head's journal, in which something happens every second."""

    def __init__(self, plan: Plan) -> None:
        self.supervisor = Supervisor(plan, 0.0)
        self.lines: list[bytes] = []
        self.phase = -1
        self.now_s = 1000.0
        self.enter()

    def add(self, kind: EventKind, host: int = 1, guest: int = -1, **fields: Any) -> None:
        self.now_s += 1
        event = Event(kind, host, guest, **fields)
        self.lines.append(
            json.dumps({"unix_s": self.now_s, "host": host, "kind": kind, "guest": guest, **fields}).encode()
        )
        self.supervisor.on_event(event, self.now_s)
        self.enter()

    def enter(self) -> None:
        line = render_phase_entry(self.supervisor, self.now_s)
        if self.supervisor.phase != self.phase:
            self.phase = self.supervisor.phase
            self.lines.append(line)

    def boot(self) -> None:
        for host in self.supervisor.plan.hosts:
            self.add(EventKind.NODE_UP, host.number)
            self.add(EventKind.FABRIC_READY, host.number)
            for guest in host.guest_ids:
                self.add(EventKind.GUEST_STARTED, host.number, guest, status=77)
                self.add(EventKind.GUEST_STAGE, host.number, guest, text="80-sync")
                self.add(EventKind.GUEST_READY, host.number, guest)
                self.add(EventKind.JOB_STARTED, host.number, guest)


@pytest.fixture
def journal(plan_of: Callable[..., Plan]) -> Journal:
    return Journal(plan_of(2))


def states(plan: Plan, lines: list[bytes], *, running: bool = True) -> tuple[str, list[str]]:
    survey = make_survey(plan, lines, None, running=running)
    return survey.state, [guest.state for guest in survey.guests]


def test_a_cluster_from_its_start_to_its_end(journal: Journal) -> None:
    plan = journal.supervisor.plan
    assert states(plan, []) == ("starting", ["waiting", "waiting"])
    journal.boot()
    assert states(plan, journal.lines[:4]) == ("starting", ["booting", "waiting"])
    survey = make_survey(plan, journal.lines, None, running=True)
    assert (survey.state, survey.ready, survey.cause, survey.since_unix_s) == ("running", 2, None, 1005)
    first = survey.guests[0]
    assert dataclasses.astuple(first) == (0, "chgu0", "cn001", "172.22.1.1", "running job", "80-sync", None, 1006)
    journal.add(EventKind.JOB_ENDED, 1, 0, status=3)
    survey = make_survey(plan, journal.lines, None, running=True)
    assert (survey.state, survey.cause, survey.guests[0].state, survey.guests[0].status) == (
        "finishing", Cause.JOB, "job ended", 3,
    )  # fmt: skip
    journal.add(EventKind.JOB_ENDED, 2, 1)
    journal.add(EventKind.GUEST_GONE, 1, 0)
    journal.add(EventKind.GUEST_GONE, 2, 1)
    assert states(plan, journal.lines) == ("powering down", ["gone", "gone"])
    journal.add(EventKind.NODE_DONE, 1)
    journal.add(EventKind.NODE_DONE, 2)
    assert states(plan, journal.lines) == ("closing", ["gone", "gone"])
    summary = make_summary(plan, journal.supervisor, 12.0)
    assert parse_summary(summary_to_json(summary), plan) == summary
    survey = make_survey(plan, journal.lines, summary, running=False)
    assert (survey.state, survey.cause, survey.exit_status, survey.elapsed_s) == ("ended", Cause.JOB, 3, 12.0)
    assert [(guest.state, guest.status) for guest in survey.guests] == [("gone", 3), ("gone", 0)]
    assert survey.guests[1].since_unix_s == journal.now_s - 2


def test_what_clocks_and_signals_did_is_told(journal: Journal) -> None:
    journal.boot()
    journal.supervisor.on_signal(Cause.CANCELLED, "cancelled (SIGTERM)", journal.now_s)
    journal.enter()
    survey = make_survey(journal.supervisor.plan, journal.lines, None, running=True)
    assert (survey.state, survey.cause, survey.text) == ("powering down", Cause.CANCELLED, "cancelled (SIGTERM)")


def test_a_lost_host_takes_its_guests_along(journal: Journal) -> None:
    journal.boot()
    journal.add(EventKind.NODE_LOST, 2, text="silent for 30 s")
    survey = make_survey(journal.supervisor.plan, journal.lines, None, running=True)
    assert (survey.cause, survey.text) == (Cause.LOST, "node cn002 is lost: silent for 30 s")
    assert [(guest.state, guest.since_unix_s) for guest in survey.guests] == [
        ("running job", 1006), ("gone", journal.now_s),
    ]  # fmt: skip


def test_a_head_that_was_killed(journal: Journal) -> None:
    journal.boot()
    assert states(journal.supervisor.plan, journal.lines, running=False) == ("died", ["running job", "running job"])
    survey = make_survey(journal.supervisor.plan, journal.lines, None, running=False)
    assert survey.text == "its head ended without a last word"


def test_torn_and_strange_lines_are_passed_over(journal: Journal) -> None:
    journal.boot()
    good = states(journal.supervisor.plan, journal.lines)
    strange = [
        b"", b"\n", b"{", b"\xff\x00", b"[" * 5000, b'{"kind":"phase"}', b'{"kind":"phase","phase":99,"unix_s":1}',
        b'{"kind":"job_ended","host":1,"guest":0}', b'{"kind":"guest_gone","host":1,"guest":7,"unix_s":1}',
        b'{"kind":"node_lost","host":9,"unix_s":1}', b'{"kind":"node_lost","host":0,"unix_s":1}',
        b'{"kind":"guest_gone","host":2,"guest":0,"unix_s":1}', b'{"kind":"new","unix_s":1}', journal.lines[3][:40],
    ]  # fmt: skip
    assert states(journal.supervisor.plan, journal.lines + strange) == good


@given(lines=st.lists(st.binary(max_size=40) | st.sampled_from(EventKind).map(lambda kind: kind.encode()), max_size=9))
def test_any_lines_give_a_survey(plan_of: Callable[..., Plan], lines: list[bytes]) -> None:
    assert len(make_survey(plan_of(2), lines, None, running=True).guests) == 2


def test_hostile_words_are_made_printable(journal: Journal) -> None:
    journal.add(EventKind.GUEST_STAGE, 1, 0, text="\x1b[2J\u202e")
    journal.add(EventKind.NODE_NOTE, 1, text="\x9b")
    survey = make_survey(journal.supervisor.plan, journal.lines, None, running=True)
    assert (survey.guests[0].stage, survey.notes) == ("?[2J?", ("cn001: ?",))


def test_the_summary_of_another_cluster_is_none(journal: Journal) -> None:
    plan = journal.supervisor.plan
    summary = make_summary(plan, journal.supervisor, 1.0)
    for other in (
        dataclasses.replace(summary, cluster_id="f" * 16),
        dataclasses.replace(summary, guests=summary.guests[:1]),
    ):
        assert parse_summary(summary_to_json(other), plan) is None
    assert parse_summary(b"", plan) is None
    assert parse_summary(b'{"cluster_id": 7}', plan) is None


def test_every_phase_has_a_word(journal: Journal) -> None:
    for phase in Phase:
        journal.supervisor.phase = phase
        journal.enter()
        state, _ = states(journal.supervisor.plan, journal.lines)
        assert state.isprintable()
