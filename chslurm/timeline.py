# SPDX-License-Identifier: Apache-2.0
"""Who was doing what, and when: the journal of a head as spans of time.

Times are seconds from the first line of the journal on, and never go back, whatever the clocks did: so a span has a
beginning, an end that is not before it, and begins where the one before it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from chslurm.messages import GUEST_EVENTS, Event, EventKind, decode_event, printable
from chslurm.phases import LONG_WORK, Phase
from chslurm.plan import Plan
from chslurm.survey import PhaseEntry, decode_time

_MOST_STAGES = 20
"""So many stages of a guest's boot are kept: who reports more is broken, or hostile."""

_KERNEL_UP = "kernel "
"""Begins the first stage, the agent's first word: kernel 6.1.0-56-amd64 up."""


class Doing(StrEnum):
    """What a guest is at, in the order in which it comes to it."""

    NETWORK = "network"  # SLURM starts the host's task, which makes its network
    QEMU = "QEMU"  # the host looks at its QEMU, the image and the disks, and starts the machine
    KERNEL = "kernel"  # the machine boots, until its agent speaks
    SERVICES = "services"  # hosts are joined, directories mounted, boot scripts run
    READY = "ready"  # waits for the other guests; in an interactive cluster: there for its user
    JOB = "job"
    DONE = "job done"  # the script has ended, and the guest is there for the others' scripts
    SHUTDOWN = "shutdown"


_ORDER = list(Doing)

_BEGINS = {
    EventKind.GUEST_STARTED: Doing.KERNEL,
    EventKind.GUEST_STAGE: Doing.SERVICES,
    EventKind.GUEST_READY: Doing.READY,
    EventKind.JOB_STARTED: Doing.JOB,
    EventKind.JOB_ENDED: Doing.DONE,
}


@dataclass(frozen=True, slots=True)
class Span:
    """One thing that was done, from when to when."""

    what: str  # of a guest a Doing, of the cluster one of the words for its phases
    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that the boot of a guest had reached."""

    name: str
    at_s: float


@dataclass(frozen=True, slots=True)
class GuestLine:
    """One guest's time."""

    spans: tuple[Span, ...]
    stages: tuple[Stage, ...]
    kernel: str  # its version, as the guest says
    end: str  # how it ended, in words
    lost: bool  # it ended before it was to

    @property
    def ready_s(self) -> float | None:
        """When it was ready."""
        return next((span.start_s for span in self.spans if span.what == Doing.READY), None)


@dataclass(frozen=True, slots=True)
class HostLine:
    """When one host was up, had joined the others and was done; None: it never was."""

    up_s: float | None = None
    joined_s: float | None = None
    done_s: float | None = None
    mtu: int = 0
    facts: str = ""  # what runs there


@dataclass(frozen=True, slots=True)
class Timeline:
    """The time of a whole cluster; hosts and guests in the order of the plan."""

    start_unix_s: float | None  # None: nothing was written down
    end_s: float
    phases: tuple[Span, ...]
    hosts: tuple[HostLine, ...]
    guests: tuple[GuestLine, ...]


class Recorder:
    """Takes in a journal, line by line; what is no line of one is passed over."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._start_s: float | None = None
        self._now_s = 0.0
        self._phase = Phase.STARTING
        self._phases: list[tuple[Phase, float]] = [(Phase.STARTING, 0.0)]
        self._hosts = [HostLine() for _ in plan.hosts]
        self._guests = [_Guest() for _ in plan.guests]

    def watch(self, journal: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the lines of a journal on and take them in."""
        for line in journal:
            self.take(line)
            yield line

    def take(self, line: bytes) -> None:
        """Take in one line."""
        event = decode_event(line)
        try:
            entry = None if event else msgspec.json.decode(line, type=PhaseEntry)
            at_unix_s = decode_time(line)
        except msgspec.MsgspecError:  # torn by a full disk, or being written
            return
        if self._start_s is None:
            self._start_s = at_unix_s
        self._now_s = max(self._now_s, round(at_unix_s - self._start_s, 3))
        if event is not None:
            self._on_event(event)
        elif entry is not None:
            self._on_phase(entry.phase)

    def finish(self, until_unix_s: float | None = None) -> Timeline:
        """Return all of it; what goes on ends with the last line, or is shown until a later time."""
        end_s = self._now_s
        if until_unix_s is not None and self._start_s is not None:
            end_s = max(end_s, round(until_unix_s - self._start_s, 3))
        return Timeline(
            start_unix_s=self._start_s,
            end_s=end_s,
            phases=_make_spans([(phase.name.lower().replace("_", " "), at_s) for phase, at_s in self._phases], end_s),
            hosts=tuple(self._hosts),
            guests=tuple(guest.finish(end_s) for guest in self._guests),
        )

    def _on_phase(self, phase: Phase) -> None:
        if phase <= self._phase:
            return
        self._phase = phase
        self._phases.append((phase, self._now_s))
        if phase >= Phase.POWERING_DOWN:
            for guest in self._guests:
                if guest.reached(Doing.KERNEL):
                    guest.advance(Doing.SHUTDOWN, self._now_s)
                else:  # never started
                    guest.end_at(self._now_s)

    def _on_event(self, event: Event) -> None:
        plan = self._plan
        if event.kind in GUEST_EVENTS:
            if 0 <= event.guest < len(plan.guests) and plan.guests[event.guest].host == event.host:
                self._on_guest_event(event, self._guests[event.guest])
        elif event.kind is EventKind.STEP_ENDED:
            for guest in self._guests:
                self._lose(guest, printable(event.text))
        elif 1 <= event.host <= len(plan.hosts):
            self._on_host_event(event)

    def _on_guest_event(self, event: Event, guest: _Guest) -> None:
        if event.kind is EventKind.GUEST_GONE:
            early = self._phase < Phase.POWERING_DOWN
            asked = event.status == 0 and (self._plan.job.interactive or guest.reached(Doing.DONE))
            if guest.ended_s is None:
                guest.end, guest.lost = printable(event.text), early and not asked
                guest.end_at(self._now_s)
        if event.kind is EventKind.GUEST_STAGE:
            guest.reach_stage(printable(event.text), self._now_s)
        if event.kind in _BEGINS:
            guest.advance(_BEGINS[event.kind], self._now_s)

    def _on_host_event(self, event: Event) -> None:
        line, now_s = self._hosts[event.host - 1], self._now_s
        guests = [self._guests[guest] for guest in self._plan.host(event.host).guest_ids]
        match event.kind:
            case EventKind.NODE_UP:
                line = replace(line, up_s=now_s)
                for guest in guests:
                    guest.advance(Doing.QEMU, now_s)
            case EventKind.NODE_FACTS:
                line = replace(line, facts=printable(event.text))
            case EventKind.FABRIC_READY:
                line = replace(line, joined_s=now_s, mtu=event.mtu)
            case EventKind.NODE_LOST | EventKind.NODE_DONE:
                line = replace(line, done_s=now_s)
                for guest in guests:
                    self._lose(guest, f"its node is lost: {printable(event.text)}" if event.text else "")
        self._hosts[event.host - 1] = line

    def _lose(self, guest: _Guest, why: str) -> None:
        """End a guest of whose own end nobody has told."""
        if guest.ended_s is None:
            guest.lost, guest.end = self._phase < Phase.POWERING_DOWN, why
            guest.end_at(self._now_s)


@dataclass(slots=True)
class _Guest:
    """What is known of a guest so far."""

    begun: list[tuple[Doing, float]] = field(default_factory=lambda: [(Doing.NETWORK, 0.0)])
    stages: list[Stage] = field(default_factory=list)
    kernel: str = ""
    end: str = ""
    lost: bool = False
    ended_s: float | None = None

    def reached(self, doing: Doing) -> bool:
        return _ORDER.index(self.begun[-1][0]) >= _ORDER.index(doing)

    def advance(self, doing: Doing, now_s: float) -> None:
        """Begin something, unless the guest has come further."""
        if self.ended_s is None and not self.reached(doing):
            self.begun.append((doing, now_s))

    def reach_stage(self, name: str, now_s: float) -> None:
        if name.startswith(_KERNEL_UP) and not self.kernel:
            self.kernel = name.removeprefix(_KERNEL_UP).removesuffix(" up")
        elif len(self.stages) < _MOST_STAGES and self.ended_s is None and not name.endswith(LONG_WORK):
            self.stages.append(Stage(name, now_s))

    def end_at(self, now_s: float) -> None:
        if self.ended_s is None:
            self.ended_s = now_s

    def finish(self, end_s: float) -> GuestLine:
        spans = _make_spans(self.begun, end_s if self.ended_s is None else self.ended_s)
        return GuestLine(spans, tuple(self.stages), self.kernel, self.end, self.lost)


def _make_spans(begun: Sequence[tuple[str, float]], end_s: float) -> tuple[Span, ...]:
    ends = [at_s for _, at_s in begun[1:]] + [end_s]
    return tuple(Span(str(what), start_s, until_s) for (what, start_s), until_s in zip(begun, ends, strict=True))
