# SPDX-License-Identifier: Apache-2.0
"""What is to be said of a cluster, from the files of its job directory: plan, journal of its head, summary.

The journal, `run/events.jsonl`, has what hosts reported, which the head's own judgement (`Supervisor`) is asked about
once more, and a line for each phase the head has entered, since clocks and signals it has seen are nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from chslurm.messages import EventKind, decode_event, printable
from chslurm.meta import make_guest_name
from chslurm.phases import Cause, GuestPhase, Phase
from chslurm.plan import Plan
from chslurm.report import Summary
from chslurm.supervise import Supervisor
from chslurm.units import LATEST_UNIX_S

_UnixTime = Annotated[float, msgspec.Meta(ge=0, le=LATEST_UNIX_S)]

READY_PHASES = (GuestPhase.READY, GuestPhase.RUNNING, GuestPhase.ENDED)

_STATES = {
    Phase.STARTING: "starting",
    Phase.RUNNING: "running",
    Phase.FINISHING: "finishing",
    Phase.POWERING_DOWN: "powering down",
    Phase.QUITTING: "quitting",
    Phase.KILLING: "killing",
    Phase.OVER: "closing",  # all hosts are done, the head is not
}

_ENDED = "ended"

_DIED = "died"
"""The state of a cluster whose head has left no summary."""


class PhaseEntry(msgspec.Struct, frozen=True, omit_defaults=True, tag="phase", tag_field="kind"):
    """A line of the journal: the head has entered a phase, or found a better cause."""

    unix_s: _UnixTime
    phase: Phase
    cause: Cause | None = None
    text: str = ""


_NOTHING_YET = PhaseEntry(0.0, Phase.STARTING)


class _Time(msgspec.Struct, frozen=True):
    unix_s: _UnixTime


@dataclass(frozen=True, slots=True)
class GuestView:
    """One guest, for people and programs."""

    id: int
    name: str
    node: str
    address: str
    state: str
    stage: str  # the last thing its boot reported
    status: int | None  # of its job
    since_unix_s: float | None  # when it came into this state


@dataclass(frozen=True, slots=True)
class Survey:
    """One cluster, for people and programs."""

    state: str
    since_unix_s: float | None
    cause: Cause | None
    text: str  # one line: what, where, why
    exit_status: int | None  # of the launcher
    elapsed_s: float | None  # when it has ended
    guests: tuple[GuestView, ...]
    notes: tuple[str, ...]

    @property
    def ready(self) -> int:
        """How many guests are ready, or have gone on from there."""
        return sum(guest.state in READY_PHASES for guest in self.guests)


def render_phase_entry(supervisor: Supervisor, unix_s: float) -> bytes:
    """Return the line that tells of the phase which the supervisor is in."""
    entry = PhaseEntry(round(unix_s, 3), supervisor.phase, supervisor.cause, supervisor.text)
    return msgspec.json.encode(entry) + b"\n"


def decode_time(line: bytes) -> float:
    """Return when a line of the journal was written. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(line, type=_Time).unix_s


def make_survey(plan: Plan, journal: Iterable[bytes], summary: Summary | None, *, running: bool) -> Survey:
    """Return what is known of a cluster; `running`: its head lives. What is no line of a journal is passed over."""
    reading = _Reading(Supervisor(plan, 0.0))
    for line in journal:
        reading.take(line)
    if summary is not None and not running:
        return _survey_ended(plan, reading, summary)
    entry = reading.entry
    return Survey(
        state=_STATES[max(entry.phase, reading.supervisor.phase)] if running else _DIED,
        since_unix_s=entry.unix_s or None,
        cause=entry.cause,
        text=printable(entry.text, 1000) or ("" if running else "its head ended without a last word"),
        exit_status=None,
        elapsed_s=None,
        guests=_view_guests(plan, reading),
        notes=tuple(printable(note, 1000) for note in reading.supervisor.notes),
    )


@dataclass(slots=True)
class _Reading:
    """How far the journal has been read."""

    supervisor: Supervisor
    entry: PhaseEntry = _NOTHING_YET
    since_s: dict[int, float] = field(default_factory=dict)

    def take(self, line: bytes) -> None:
        event = decode_event(line)
        try:
            if event is None:
                self.entry = msgspec.json.decode(line, type=PhaseEntry)
                return
            at_s = decode_time(line)
        except msgspec.MsgspecError:  # torn by a full disk, or being written
            return
        whole_host = event.kind is EventKind.NODE_LOST and 1 <= event.host <= len(self.supervisor.plan.hosts)
        touched = self.supervisor.plan.host(event.host).guest_ids if whole_host else [event.guest]
        before = {guest: self.supervisor.guests[guest].phase for guest in touched if guest in self.supervisor.guests}
        self.supervisor.on_event(event, at_s)
        for guest, phase in before.items():
            if self.supervisor.guests[guest].phase is not phase:
                self.since_s[guest] = at_s


def _survey_ended(plan: Plan, reading: _Reading, summary: Summary) -> Survey:
    return Survey(
        state=_ENDED,
        since_unix_s=reading.entry.unix_s or None,
        cause=summary.cause,
        text=printable(summary.text, 1000),
        exit_status=summary.exit_status,
        elapsed_s=summary.elapsed_s,
        guests=tuple(
            dataclasses.replace(view, state=report.phase, status=report.status)
            for view, report in zip(_view_guests(plan, reading), summary.guests, strict=True)
        ),
        notes=tuple(printable(note, 1000) for note in summary.notes),
    )


def _view_guests(plan: Plan, reading: _Reading) -> tuple[GuestView, ...]:
    return tuple(
        GuestView(
            id=guest.id,
            name=make_guest_name(guest.id),
            node=plan.host(guest.host).name,
            address=str(plan.address(guest).ip),
            state=str(state.phase),
            stage=printable(state.stage),
            status=state.status,
            since_unix_s=reading.since_s.get(guest.id),
        )
        for guest, state in zip(plan.guests, reading.supervisor.guests.values(), strict=True)
    )
