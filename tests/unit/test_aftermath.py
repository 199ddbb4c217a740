# SPDX-License-Identifier: Apache-2.0
"""What ends a launch that has failed, and when nothing does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chslurm import aftermath, cluster, doctor
from chslurm.checkup import Row, Topic, Verdict
from chslurm.errors import ChslurmError, UsageError
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, encode_event
from chslurm.phases import Cause
from chslurm.plan import Image, Plan
from chslurm.report import Summary
from chslurm.request import Request

TUN = Row(Topic.TUN, "denied", Verdict.FAILED, "chmod it")
QEMU = Row(Topic.QEMU, "7.2")
TOLD = "TAP devices: denied; chmod it"
UP = Event(EventKind.NODE_UP, 1)


def summary_of(cause: Cause) -> Summary:
    return Summary("0" * 16, cause, 70, "node cn001: broken", 1.0, (), ())


@pytest.fixture
def plan(plan_of: Callable[..., Plan], tmp_path: Path) -> Plan:
    (tmp_path / "run").mkdir()
    return replace(plan_of(3), job_dir=str(tmp_path))


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the doctor was asked to look at; he finds that there is no TAP."""
    seen: list[str] = []

    def check_host(_: object, topics: object, __: object) -> list[Row]:
        seen.append(str(topics))
        return [QEMU, TUN]

    monkeypatch.setattr(doctor, "check_host", check_host)
    return seen


def journal(plan: Plan, *events: Event) -> None:
    Path(plan.job_dir, "run", "events.jsonl").write_bytes(b"".join(map(encode_event, events)))


def test_what_hosts_have_told_ends_it(plan: Plan, looked: list[str]) -> None:
    told = [Event(EventKind.CHECKUP, host, text=TOLD) for host in (2, 3, 2)]
    journal(plan, UP, Event(EventKind.NODE_FAILED, 2, text="broken"), *told)
    summary = aftermath.explain_end(plan, summary_of(Cause.MACHINERY), {})
    assert summary.causes == (f"doctor: cn[002-003]: {TOLD}",)
    assert looked == []


@pytest.mark.parametrize("cause", [Cause.JOB, Cause.CANCELLED, Cause.INTERRUPTED, Cause.TIME_LIMIT])
def test_nobody_looks_why_a_cluster_has_ended_as_it_should(plan: Plan, looked: list[str], cause: Cause) -> None:
    assert aftermath.explain_end(plan, summary_of(cause), {}).causes == ()
    assert looked == []


def test_nobody_looks_when_guests_had_come_up(plan: Plan, looked: list[str]) -> None:
    journal(plan, UP, Event(EventKind.GUEST_STAGE, 1, 0, text="kernel up"), Event(EventKind.CHECKUP, 2, text=TOLD))
    assert aftermath.explain_end(plan, summary_of(Cause.LOST), {}).causes == ()
    assert looked == []


def test_where_no_host_has_come_up_the_head_looks(plan: Plan, looked: list[str]) -> None:
    """Also where there is no journal, as on a full disk."""
    assert aftermath.explain_end(plan, summary_of(Cause.MACHINERY), {}).causes == (f"doctor: {TOLD}",)
    journal(plan)
    assert aftermath.explain_end(plan, summary_of(Cause.MACHINERY), {}).causes == (f"doctor: {TOLD}",)
    journal(plan, UP)
    assert aftermath.explain_end(plan, summary_of(Cause.MACHINERY), {}).causes == ()
    assert len(looked) == 2


def test_errors_of_the_launcher(looked: list[str], request_of: Callable[..., Request]) -> None:
    usage, broken = UsageError("bad"), ChslurmError("broken")
    for error in (usage, broken):
        aftermath.explain_error(error, request_of(), {})
    assert (usage.causes, broken.causes) == ((), (f"doctor: {TOLD}",))
    assert str(broken) == "broken"


def test_a_doctor_who_fails_hides_nothing(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Row]:
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "check_host", fail)
    assert aftermath.explain_end(plan, summary_of(Cause.MACHINERY), {}).causes == ()


def test_a_torn_line_or_a_host_that_is_not_there_hides_nothing(plan: Plan, looked: list[str]) -> None:
    journal(plan, UP, *[Event(EventKind.CHECKUP, host, text=TOLD) for host in (0, 2, 4)])
    assert aftermath.explain_end(plan, summary_of(Cause.LOST), {}).causes == (f"doctor: cn002: {TOLD}",)
    aftermath.tell_causes(plan, 4, [], failed=True)
    Path(plan.job_dir, "run", "events.jsonl").unlink()
    broken = replace(plan, image=Image(()))
    assert aftermath.explain_end(broken, summary_of(Cause.LOST), {}) == summary_of(Cause.LOST)


def test_the_head_has_no_other_thread_and_has_written_the_summary_when_it_looks(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_dir = JobDir(Path(plan.job_dir))
    done: list[object] = []

    def look(*_: object) -> list[Row]:
        done.append("lost" in Path(job_dir.summary).read_text())
        return [TUN]

    monkeypatch.setattr(doctor, "check_host", look)
    progress: Any = SimpleNamespace(pause=done.append, note=done.append)
    summary = cluster._conclude(plan, summary_of(Cause.LOST), progress, {})
    assert done == [True, True, False]
    assert summary.causes == (f"doctor: {TOLD}",)
    assert TOLD in Path(job_dir.summary).read_text()


@pytest.mark.parametrize(
    ("failed", "guests", "looks"),
    [
        (True, [], True),
        (True, [(False, False)], True),
        (False, [(False, True)], True),
        (False, [(True, False), (False, True)], False),
        (True, [(True, False)], False),
        (False, [(False, False)], False),
    ],
)
def test_a_host_looks_when_no_guest_has_said_a_word(
    plan: Plan,
    looked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    failed: bool,
    guests: list[tuple[bool, bool]],
    looks: bool,
) -> None:
    told: list[Event] = []
    monkeypatch.setattr(aftermath, "tell", told.append)
    stewards: Any = [SimpleNamespace(spoke=spoke, stillborn=stillborn) for spoke, stillborn in guests]
    aftermath.tell_causes(plan, 2, stewards, failed=failed)
    assert told == ([Event(EventKind.CHECKUP, 2, text=TOLD)] * 2 if looks else [])
    assert ("TUN" in "".join(looked)) == looks
