# SPDX-License-Identifier: Apache-2.0
"""The story of the head: plan -> stage -> launch -> supervise -> collect. Its exit status is the user's."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import msgspec

from chslurm.host.files import renew_jobscript, start_job_dir, write_file
from chslurm.host.place import prepare_plan
from chslurm.host.step import Happening, Step, make_step_argv, start_step
from chslurm.jobdir import JobDir
from chslurm.messages import EventKind, Order, OrderKind
from chslurm.network import Peer
from chslurm.phases import Cause, GuestPhase
from chslurm.plan import Mode, Plan, plan_digest
from chslurm.planner import render_plan
from chslurm.report import Summary, make_summary, render_summary, summary_to_json
from chslurm.request import Request
from chslurm.supervise import Supervisor

_TICK_S = 0.5
"""How often deadlines are looked at when nothing happens."""


class Progress(Protocol):
    """Where the head says how it goes."""

    def note(self, text: str) -> None:
        """Say a line."""

    def update(self, states: Mapping[str, int], ready: int, total: int) -> None:
        """Say how many guests are in each state."""


def run_cluster(request: Request, progress: Progress, environment: Mapping[str, str] = os.environ) -> int:
    """Run one cluster from its plan to its end and return the exit status (C8); `environment` tells of the SLURM job.

    Raises UsageError before anything was started, ChslurmError when the head itself can't go on.
    """
    plan = prepare_plan(request, environment)
    with start_job_dir(plan, reuse=request.job_dir is not None) as plan:
        job_dir = JobDir(Path(plan.job_dir))
        progress.note(render_plan(plan))
        argv = make_step_argv(plan, plan_digest(Path(job_dir.plan).read_bytes()), os.environ)
        with start_step(argv, [host.name for host in plan.hosts], job_dir.step_log) as step:
            head = Head(plan, step, progress)
            with _signals_to(step):
                summary = head.supervise()
        write_file(Path(job_dir.summary), summary_to_json(summary))
    for line in render_summary(summary):
        progress.note(line)
    return summary.exit_status


class Head:
    """The loop between the step and the judgement."""

    def __init__(self, plan: Plan, step: Step, progress: Progress) -> None:
        self.plan = plan
        self.step = step
        self.progress = progress
        self.job_dir = JobDir(Path(plan.job_dir))
        self.supervisor = Supervisor(plan, time.monotonic())
        self._noted = 0

    def supervise(self) -> Summary:
        """Take in what happens until the cluster is over."""
        next_beat_s = time.monotonic()
        with open(self.job_dir.events, "ab", buffering=0) as journal:
            while not self.supervisor.over:
                happening = self.step.next(_TICK_S)
                now_s = time.monotonic()
                self._obey(self._take_in(happening, journal, now_s) + self.supervisor.on_time(now_s))
                if now_s >= next_beat_s:
                    next_beat_s = now_s + self.plan.deadlines.beat_s
                    self.step.send(Order(OrderKind.BEAT))
                    renew_jobscript(self.plan)
                self._show()
        self._linger()
        return make_summary(self.plan, self.supervisor, time.monotonic())

    def _take_in(self, happening: Happening | None, journal: IO[bytes], now_s: float) -> list[Order]:
        if happening is None:
            return []
        if isinstance(happening, signal.Signals):
            return self.supervisor.on_signal(*self._read_signal(happening), now_s)
        journal.write(msgspec.json.encode({"unix_s": round(time.time(), 3), **msgspec.to_builtins(happening)}) + b"\n")
        return self.supervisor.on_event(happening, now_s)

    def _read_signal(self, number: signal.Signals) -> tuple[Cause, str]:
        if number is signal.SIGINT:
            return Cause.INTERRUPTED, "interrupted; once more ends the guests at once"
        end_s = self.plan.end_time_unix_s
        if number is signal.SIGTERM and end_s is not None and time.time() >= end_s - 5:
            return Cause.TIME_LIMIT, "SLURM's time limit has passed"
        return Cause.CANCELLED, f"cancelled ({number.name})"

    def _obey(self, orders: list[Order]) -> None:
        for order in orders:
            if order.kind is OrderKind.PEERS:
                order = self._write_peers(order)
            self.step.send(order)

    def _write_peers(self, order: Order) -> Order:
        """Addresses of all hosts travel by file: an order is one line, and one copy of it goes to every host."""
        offers = self.supervisor.gathered(EventKind.TUNNEL_OFFER)
        peers = msgspec.json.encode([Peer(offer.host, offer.address, offer.port) for offer in offers])
        write_file(Path(self.job_dir.peers), peers)
        return Order(order.kind, mtu=order.mtu, text=plan_digest(peers))

    def _show(self) -> None:
        for note in self.supervisor.notes[self._noted :]:
            self.progress.note(note)
        self._noted = len(self.supervisor.notes)
        states = Counter(str(state.phase) for state in self.supervisor.guests.values())
        ready = self.supervisor.count(GuestPhase.READY, GuestPhase.RUNNING, GuestPhase.ENDED)
        self.progress.update(states, ready, len(self.plan.guests))

    def _linger(self) -> None:
        """When all hosts went away at once, SLURM's TERM to us may still be on its way: it is the true cause."""
        until_s = time.monotonic() + (
            1.5 if self.supervisor.cause is Cause.LOST and self.plan.mode is Mode.CLUSTER else 0
        )
        while (left_s := until_s - time.monotonic()) > 0:
            happening = self.step.next(left_s)
            if isinstance(happening, signal.Signals):
                self.supervisor.on_signal(*self._read_signal(happening), time.monotonic())
                return


@contextmanager
def _signals_to(step: Step) -> Iterator[None]:
    """Signals that ask for the end become happenings; before and after, they are what they were."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda n, _: step.put(signal.Signals(n))) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
