# SPDX-License-Identifier: Apache-2.0
"""The head's judgement: (state, event, now) -> orders. Knows no clock, no process and no file.

A cluster goes through the phases of `phases.Phase`, forward only; each has its deadline in `plan.Deadlines`. Until
the guests are told to power down a later cause replaces an earlier one; after that nothing is a new cause.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chslurm.messages import GUEST_EVENTS, Event, EventKind, Order, OrderKind
from chslurm.phases import LONG_WORK, SAME_BLOW_S, Cause, GuestPhase, GuestState, Phase, find_patience_s
from chslurm.plan import Mode, Plan
from chslurm.rendezvous import Rendezvous


@dataclass(slots=True)
class Supervisor:
    """The state of one cluster. Times are seconds of any monotonic clock."""

    plan: Plan
    started_s: float
    phase: Phase = Phase.STARTING
    cause: Cause | None = None
    text: str = ""  # one line for the user: what, where, why, and the log to read
    guests: dict[int, GuestState] = field(default_factory=dict)
    counts: Counter[GuestPhase] = field(default_factory=Counter)  # of guests in each phase
    up: set[int] = field(default_factory=set)  # hosts that have reported
    joined: set[int] = field(default_factory=set)  # hosts whose network is complete
    done: set[int] = field(default_factory=set)  # hosts that have said their last word or are lost
    notes: list[str] = field(default_factory=list)
    told_to_end: bool = False  # whether what began the end is that a host was told to; only SLURM knows why
    rendezvous: Rendezvous = field(init=False)
    _phase_since_s: float = 0.0
    _ending_since_s: float = 0.0
    _heard_s: dict[int, float] = field(default_factory=dict)
    _lost_host: int = 0
    _kill_waits: bool = False  # SLURM said TERM; after its KillWait it kills
    _said: set[str] = field(default_factory=set)
    _booting: dict[int, None] = field(default_factory=dict)  # in order of their start

    def __post_init__(self) -> None:
        self.guests = {guest.id: GuestState() for guest in self.plan.guests}
        self.rendezvous = Rendezvous(len(self.plan.hosts))
        self.counts = Counter({GuestPhase.WAITING: len(self.guests)})
        self._phase_since_s = self.started_s

    @property
    def over(self) -> bool:
        return self.phase is Phase.OVER

    def count(self, *phases: GuestPhase) -> int:
        """Return how many guests are in one of these phases."""
        return sum(self.counts[phase] for phase in phases)

    # -- what happens -------------------------------------------------------------------------------------------------

    def on_event(self, event: Event, now_s: float) -> list[Order]:
        """Take in one report of a host. An event that names a guest or host outside the plan is dropped."""
        if not self._is_ours(event):
            return []
        self._heard_s[event.host] = now_s
        match event.kind:
            case EventKind.NODE_UP:
                self.up.add(event.host)
            case EventKind.FABRIC_READY:
                self.joined.add(event.host)
            case EventKind.TUNNEL_OFFER | EventKind.TUNNEL_MTU:
                return self.rendezvous.report(event)
            case EventKind.BARRIER:
                self.rendezvous.arrive(event.text, event.guest)
                return self._open_barriers()
            case EventKind.NODE_NOTE:
                self._note(event.text, event.host)
            case EventKind.NODE_TOLD_TO_END:
                text = f"node {self._host_name(event.host)}: {event.text} came to oneguest"
                self.told_to_end |= self.phase < Phase.POWERING_DOWN
                return self._end(Cause.LOST, text, now_s)
            case EventKind.STOP_ASKED:
                cause = Cause.SHUTDOWN if self.plan.job.interactive else Cause.CANCELLED
                return self._end(cause, "stopped by its user", now_s)
            case EventKind.NODE_FAILED:
                return self._on_node_failure(event, now_s)
            case EventKind.NODE_DONE:
                self.done.add(event.host)
                return self._host_is_done(event.host, now_s)
            case EventKind.NODE_LOST:
                return self._on_node_loss(event, now_s)
            case EventKind.STEP_ENDED:
                return self._on_step_end(event, now_s)
            case EventKind.PULSE | EventKind.TRIAL | EventKind.CHECKUP | EventKind.NODE_FACTS:
                pass
            case _:
                return self._on_guest_event(event, now_s)
        return []

    def _note(self, text: str, host: int) -> None:
        """Keep a note of a host. Most hosts say the same: the first speaks for all."""
        if text not in self._said:
            self._said.add(text)
            self.notes.append(f"{self._host_name(host)}: {text}")

    def _on_guest_event(self, event: Event, now_s: float) -> list[Order]:
        guest = self.guests[event.guest]
        match event.kind:
            case EventKind.GUEST_STARTED:
                self._move(event.guest, GuestPhase.BOOTING)
                guest.started_s = now_s
                self._booting[event.guest] = None
            case EventKind.GUEST_STAGE:
                guest.reach(event.text, now_s)
                if event.text.endswith(LONG_WORK):
                    self._note("guests give charlie's files to their new owner, which may take minutes", event.host)
            case EventKind.GUEST_READY:
                self._move(event.guest, GuestPhase.READY)
                self._booting.pop(event.guest, None)
                if event.guest == 0 and self.phase is Phase.STARTING:
                    self._enter(Phase.RUNNING, now_s)
            case EventKind.JOB_STARTED:
                self._move(event.guest, GuestPhase.RUNNING)
            case EventKind.JOB_ENDED:
                self._move(event.guest, GuestPhase.ENDED)
                guest.status = event.status
                return self._on_job_end(event.guest, now_s)
            case EventKind.GUEST_GONE:
                self._move(event.guest, GuestPhase.GONE)
                guest.clean, guest.end = event.status == 0, event.text
                self._booting.pop(event.guest, None)
                return self._on_guest_gone(event, now_s) + self._open_barriers()
        return []

    def _open_barriers(self) -> list[Order]:
        return self.rendezvous.open(len(self.guests) - self.count(GuestPhase.GONE))

    def _move(self, guest: int, phase: GuestPhase) -> None:
        self.counts[self.guests[guest].phase] -= 1
        self.counts[phase] += 1
        self.guests[guest].phase = phase

    def on_signal(self, cause: Cause, text: str, now_s: float) -> list[Order]:
        """Take in the user's or SLURM's wish to end. A second wish hurries what the first began."""
        if self.plan.mode is Mode.CLUSTER and cause in (Cause.CANCELLED, Cause.TIME_LIMIT):
            self._kill_waits = True
        if self.phase < Phase.POWERING_DOWN:
            return self._end(cause, text, now_s)
        if self.cause is Cause.LOST and now_s < self._ending_since_s + SAME_BLOW_S:
            self.cause, self.text = cause, text
        if self.phase is Phase.POWERING_DOWN and cause is Cause.INTERRUPTED:
            return self._enter(Phase.QUITTING, now_s)
        return []

    def learn(self, cause: Cause, text: str) -> None:
        """Take in why a host was told to end, which is a better reason than that it was."""
        if self.cause is Cause.LOST and self.told_to_end:
            self.cause, self.text = cause, text

    def forgive(self, gap_s: float) -> None:
        """Do not hold against others that we did not run for `gap_s`: we were suspended, or waited for a disk."""
        self._phase_since_s += gap_s
        self._heard_s = {host: heard_s + gap_s for host, heard_s in self._heard_s.items()}
        for guest in self._booting:
            self.guests[guest].started_s += gap_s
            self.guests[guest].got_on_s += gap_s

    def on_time(self, now_s: float) -> list[Order]:
        """Look whether a deadline has passed."""
        if self.over:
            return []
        if self.phase >= Phase.FINISHING:
            due = now_s >= self._phase_end_s()
            after = Phase.OVER if self._only_hosts_are_left() else Phase(self.phase + 1)
            return self._enter(after, now_s) if due else []
        if (limit := self.plan.time_limit_s) is not None and now_s >= self.started_s + limit:
            return self._end(Cause.TIME_LIMIT, f"the time limit of {limit:g} s has passed", now_s)
        for host, heard_s in self._heard_s.items():
            if now_s > heard_s + self.plan.deadlines.lost_s and host not in self.done:
                lost = Event(EventKind.NODE_LOST, host, text=f"silent for {now_s - heard_s:.0f} s")
                return self.on_event(lost, now_s)
        return self._check_start(now_s)

    # -- what follows -------------------------------------------------------------------------------------------------

    def _is_ours(self, event: Event) -> bool:
        """Whether host and guest are of the plan, and belong together."""
        if event.kind is EventKind.STEP_ENDED:
            return True
        if event.kind in GUEST_EVENTS:
            return event.guest in self.guests and self.plan.guests[event.guest].host == event.host
        return 1 <= event.host <= len(self.plan.hosts)

    def _on_job_end(self, guest: int, now_s: float) -> list[Order]:
        if guest == 0 and self.phase < Phase.FINISHING:
            self.cause, self.text = Cause.JOB, ""
            self._enter(Phase.FINISHING, now_s)
        everyone = self.count(GuestPhase.ENDED, GuestPhase.GONE) == len(self.guests)
        return self._enter(Phase.POWERING_DOWN, now_s) if self.phase is Phase.FINISHING and everyone else []

    def _on_guest_gone(self, event: Event, now_s: float) -> list[Order]:
        if self.phase > Phase.FINISHING:
            return []
        if self.phase is Phase.FINISHING and self.guests[event.guest].status is not None:
            self.notes.append(self._describe(event))
            return self._on_job_end(event.guest, now_s)
        if event.status == 0 and self.plan.job.interactive:
            return self._end(Cause.SHUTDOWN, "guest 0 was shut down", now_s) if event.guest == 0 else []
        return self._end(Cause.LOST, self._describe(event), now_s)

    def _on_node_failure(self, event: Event, now_s: float) -> list[Order]:
        """A host says why it can't go on. Its end may have been told before: then this is the better reason."""
        text = f"node {self._host_name(event.host)}: {event.text}"
        if self._lost_host == event.host:
            self.cause, self.text = Cause.MACHINERY, text
        elif self.phase >= Phase.POWERING_DOWN and text != self.text:  # no cause now; a commit may fail
            self._note(event.text, event.host)
        return self._end(Cause.MACHINERY, text, now_s)

    def _on_node_loss(self, event: Event, now_s: float) -> list[Order]:
        if event.host in self.done:  # srun tells the end of every task that ended badly, for whatever reason
            return []
        self.done.add(event.host)
        for guest in self.plan.host(event.host).guest_ids:
            self._move(guest, GuestPhase.GONE)
            self._booting.pop(guest, None)
        if self.phase < Phase.POWERING_DOWN:
            self._lost_host = event.host
        ending = self._end(Cause.LOST, f"node {self._host_name(event.host)} is lost: {event.text}", now_s)
        return ending + self._host_is_done(event.host, now_s)

    def _only_hosts_are_left(self) -> bool:
        return self.phase > Phase.FINISHING and self.count(GuestPhase.GONE) == len(self.guests)

    def _host_is_done(self, host: int, now_s: float) -> list[Order]:
        guests = self.plan.host(host).guest_ids
        alive = any(self.guests[guest].phase is not GuestPhase.GONE for guest in guests)
        if alive and self.phase < Phase.FINISHING:
            return self._end(Cause.MACHINERY, f"{self._host_name(host)} ended before its guests did", now_s)
        return self._enter(Phase.OVER, now_s) if len(self.done) == len(self.plan.hosts) else []

    def _on_step_end(self, event: Event, now_s: float) -> list[Order]:
        if self.cause is None:
            self._end(Cause.MACHINERY, f"the hosts' tasks ended early: {event.text}; see out/step.out", now_s)
        return self._enter(Phase.OVER, now_s)

    def _check_start(self, now_s: float) -> list[Order]:
        limits = self.plan.deadlines
        if len(self.up) < len(self.plan.hosts):
            if now_s > self.started_s + limits.node_up_s:
                missing = [host.name for host in self.plan.hosts if host.number not in self.up]
                return self._end(Cause.MACHINERY, _late("node", missing, "did not report", limits.node_up_s), now_s)
        elif len(self.joined) < len(self.plan.hosts) and now_s > self.started_s + limits.node_up_s + limits.tunnel_s:
            missing = [host.name for host in self.plan.hosts if host.number not in self.joined]
            late = _late("node", missing, "did not join the network", limits.tunnel_s)
            return self._end(Cause.MACHINERY, late, now_s)
        for guest in self._booting:  # in order of their start: the first is the latest
            if why := self.guests[guest].find_delay(now_s, limits):
                return self._end(Cause.LOST, f"{self._guest_name(guest)}: {why}; see out/{guest}_console.out", now_s)
        return []

    def _end(self, cause: Cause, text: str, now_s: float) -> list[Order]:
        """Begin to wind the cluster down, unless that has begun."""
        if self.phase >= Phase.POWERING_DOWN:
            return []
        self.cause, self.text, self._ending_since_s = cause, text, now_s
        return self._enter(Phase.POWERING_DOWN, now_s)

    def _enter(self, phase: Phase, now_s: float) -> list[Order]:
        if phase <= self.phase:  # forward only
            return []
        self.phase, self._phase_since_s = phase, now_s
        orders = {
            Phase.POWERING_DOWN: [Order(OrderKind.POWER_DOWN)],
            Phase.QUITTING: [Order(OrderKind.QUIT)],
            Phase.KILLING: [Order(OrderKind.KILL)],
        }
        return orders.get(phase, [])

    def _phase_end_s(self) -> float:
        limits = self.plan.deadlines
        if self._only_hosts_are_left() and not self._kill_waits:  # bringing disks home, perhaps, and pulsing meanwhile
            heard_s = max((at_s for host, at_s in self._heard_s.items() if host not in self.done), default=0.0)
            return max(heard_s, self._phase_since_s) + limits.node_down_s
        return self._phase_since_s + find_patience_s(self.phase, limits, kill_waits=self._kill_waits)

    # -- names for the user -------------------------------------------------------------------------------------------

    def _describe(self, event: Event) -> str:
        return f"{self._guest_name(event.guest)}: {event.text}; see out/{event.guest}_console.out"

    def _guest_name(self, guest: int) -> str:
        return f"guest {guest} on {self._host_name(self.plan.guests[guest].host)}"

    def _host_name(self, number: int) -> str:
        return self.plan.host(number).name


def _late(what: str, names: list[str], how: str, limit_s: float) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{what} {shown} {how} within {limit_s:g} s; see out/step.out"
