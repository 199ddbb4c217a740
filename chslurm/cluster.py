# SPDX-License-Identifier: Apache-2.0
"""The story of the head: plan -> stage -> launch -> supervise -> collect. Its exit status is the user's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec

from chslurm.aftermath import explain_end
from chslurm.allocation import is_job_over
from chslurm.errors import UsageError
from chslurm.host.clusters import register_cluster
from chslurm.host.files import write_file
from chslurm.host.journal import Journal, start_journal
from chslurm.host.place import prepare_plan
from chslurm.host.rescue import hold_layers
from chslurm.host.signals import hear_signals
from chslurm.host.sitetaps import Taps, TapTaken, take_site_taps
from chslurm.host.slurm import read_job_state
from chslurm.host.staging import renew_job_dir, start_job_dir
from chslurm.host.step import Happening, Step, make_step_argv, start_step
from chslurm.host.viewers import Viewers, check_console, make_viewers
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, Order, OrderKind
from chslurm.phases import NOTICES, Cause, GuestPhase, Phase, judge_job_end, judge_signal
from chslurm.plan import Mode, Plan, plan_digest
from chslurm.planner import render_plan
from chslurm.report import Summary, make_summary, render_summary, summary_to_json
from chslurm.request import Console, Request
from chslurm.retell import leave_report
from chslurm.supervise import Supervisor
from chslurm.survey import render_phase_entry
from chslurm.tunnel import Peer

_GAP_S = 5.0
"""A turn that took longer than this was no turn: this process was suspended, or waited for a disk."""

_LINGER_S = 1.5
"""How long a cancellation may come after its effects."""

_TRIES = 8
"""How often a plan is made anew because others have just taken its TAPs."""

_TIME_IS_UP = "SLURM's time limit has passed"

_ONCE_MORE = "shutting down the guests; Ctrl-C once more ends them at once"

_WAY_IN = """\
guest 0 is ready: chslurm ssh, or chslurm console, logs in from another terminal
it ends with chslurm stop, with Ctrl-C here, or when guest 0 is shut down"""

_TICK_S = 0.5
"""How often deadlines are looked at when nothing happens."""


class Progress(Protocol):
    """Where the head says how it goes."""

    def note(self, text: str) -> None:
        """Say a line."""

    def update(self, states: Mapping[str, int], ready: int, total: int) -> None:
        """Say how many guests are in each state."""

    def pause(self, paused: bool) -> None:
        """Leave the screen to somebody else, or take it again."""


class Trial(Protocol):
    """Who checks the network of a running cluster."""

    @property
    def control(self) -> bool:
        """Whether it is to have no filters."""

    def begin(self, plan: Plan) -> None:
        """Take in what was decided."""

    def hear(self, event: Event) -> None:
        """Take in what a host says."""

    def take_turn(self, now_s: float) -> list[Order]:
        """Go on as far as can be without waiting. Raises ChslurmError when somebody does not do his part."""


def run_cluster(
    request: Request,
    progress: Progress,
    environment: Mapping[str, str] = os.environ,
    trial: Trial | None = None,
) -> int:
    """Run one cluster from its plan to its end and return the exit status (C8); `environment` tells of the SLURM job.

    Raises UsageError before anything was started, ChslurmError when the head itself can't go on.
    """
    check_console(request.console)
    plan, taps = _make_plan(request, environment)
    plan = replace(plan, trial=trial is not None, control=trial is not None and trial.control)
    with closing(taps), closing(make_viewers(request.console, progress.note)) as viewers:
        with ExitStack() as stack:
            plan = stack.enter_context(start_job_dir(plan, reuse=request.job_dir is not None))
            if trial:
                trial.begin(plan)
            held = stack.enter_context(_held(plan))
            signals = stack.enter_context(hear_signals())
            job_dir = JobDir(Path(plan.job_dir))
            progress.note(render_plan(plan))
            if request.console is Console.CURSES:
                progress.note("console:       guest 0, in this terminal; Ctrl-] q leaves it, and the cluster goes on")
            argv = make_step_argv(plan, plan_digest(Path(job_dir.plan).read_bytes()), environment, taps.fds)
            names = [host.name for host in plan.hosts]
            stack.enter_context(register_cluster(plan, progress.note))
            stops: list[signal.Signals] = []
            signals.ends.append(stops.append)
            with start_step(argv, names, job_dir.step_log, plan.deadlines.beat_s, taps.fds) as step:
                taps.close()  # its own they stay until the guests have ended
                signals.ends.append(step.put)
                signals.notices.append(step.put)
                unseen = plan.job.interactive and request.console is Console.NONE
                summary = Head(plan, step, progress, viewers, unseen=unseen, trial=trial).supervise()
            summary = _conclude(plan, summary, progress, environment)
            if plan.commit_guest is not None:
                from chslurm.imagecommit import commit_in_the_end

                summary = commit_in_the_end(plan, summary, progress.note, held=held, stops=stops)
                _collect(plan, summary, progress)
            report = leave_report(plan, summary, wanted=request.report)
        for line in (*render_summary(summary), *report, *summary.causes):
            progress.note(line)
        progress.pause(True)
        try:
            viewers.finish()
        except KeyboardInterrupt:
            progress.note("")  # what comes next on the terminal begins a line
    return summary.exit_status


def _make_plan(request: Request, environment: Mapping[str, str]) -> tuple[Plan, Taps]:
    """Return the plan and the TAPs it uses, which are taken: when another cluster was faster it is made anew."""
    for _ in range(_TRIES):
        with suppress(TapTaken):
            plan = prepare_plan(request, environment)
            return plan, take_site_taps(plan)
    raise UsageError("can't take TAPs: others are always faster", hint="--network rootless does without them")


def _held(plan: Plan) -> AbstractContextManager[list[int]]:
    """Keep the image alive, when a guest is to be committed to it, whoever replaces it."""
    return nullcontext([]) if plan.commit_guest is None else hold_layers(plan.image)


def _conclude(plan: Plan, summary: Summary, progress: Progress, environment: Mapping[str, str]) -> Summary:
    """Return the summary with causes. It is written before, too: SLURM may kill us while we look for them."""
    _collect(plan, summary, progress)
    progress.pause(True)  # its thread would be forked
    explained = explain_end(plan, summary, environment)
    progress.pause(False)
    if explained != summary:
        _collect(plan, explained, progress)
    return explained


def _collect(plan: Plan, summary: Summary, progress: Progress) -> None:
    """Write the summary, and delete what hosts that were lost could not: temporary disks."""
    job_dir = JobDir(Path(plan.job_dir))
    try:
        write_file(Path(job_dir.summary), summary_to_json(summary))
        for guest in plan.guests:
            Path(job_dir.temporary_disk(guest.id)).unlink(missing_ok=True)
    except OSError as error:
        progress.note(f"can't write the job directory any more: {error.filename}: {error.strerror}")


class Head:
    """The loop between the step and the judgement."""

    def __init__(
        self, plan: Plan, step: Step, progress: Progress, viewers: Viewers, *, unseen: bool, trial: Trial | None
    ) -> None:
        self.plan = plan
        self.step = step
        self.progress = progress
        self.viewers = viewers
        self.trial = trial
        self._unseen = unseen  # an interactive cluster without a console: the user has to be told how to get in
        self.job_dir = JobDir(Path(plan.job_dir))
        self.supervisor = Supervisor(plan, time.monotonic())
        self._noted = 0
        self._journaled: tuple[object, ...] = ()

    def supervise(self) -> Summary:
        """Take in what happens until the cluster is over."""
        turn_s = next_renewal_s = time.monotonic()
        with start_journal(Path(self.job_dir.events), Path(self.job_dir.root), self.supervisor.notes.append) as journal:
            self._journal_phase(journal)  # when it all began
            while not self.supervisor.over:
                happenings = self.step.take(_TICK_S)
                last_s, turn_s = turn_s, time.monotonic()
                if turn_s - last_s > _GAP_S:
                    self.supervisor.forgive(turn_s - last_s)
                for happening in happenings:
                    self._obey(self._take_in(happening, journal, turn_s))
                self._obey(self.supervisor.on_time(turn_s))
                if self.trial and self.supervisor.phase is Phase.RUNNING:
                    self._obey(self.trial.take_turn(turn_s))
                if turn_s >= next_renewal_s:
                    next_renewal_s = turn_s + self.plan.deadlines.beat_s
                    renew_job_dir(self.plan)
                self._journal_phase(journal)
                journal.look(turn_s)
                self._show()
        self._linger()
        self.viewers.give_back()
        self._show()
        return make_summary(self.plan, self.supervisor, time.monotonic())

    def _take_in(self, happening: Happening, journal: Journal, now_s: float) -> list[Order]:
        if isinstance(happening, signal.Signals):
            if happening in NOTICES:
                return self._pass_on(happening.name.removeprefix("SIG"))
            cause, text = self._read_signal(happening)
            if self.supervisor.phase < Phase.POWERING_DOWN and cause is Cause.INTERRUPTED:
                self.progress.note(_ONCE_MORE)
            return self.supervisor.on_signal(cause, text, now_s)
        if happening.kind is not EventKind.PULSE:  # for weeks, of each host
            line = msgspec.json.encode({"unix_s": round(time.time(), 3), **msgspec.to_builtins(happening)})
            journal.write(line + b"\n")
        if happening.kind is EventKind.GUEST_STARTED:
            self.viewers.show(self.plan.job_dir, happening.guest)
        if self.trial:
            self.trial.hear(happening)
        return self.supervisor.on_event(happening, now_s)

    def _journal_phase(self, journal: Journal) -> None:
        """Write down what no event tells: that clocks and signals have brought the cluster into another phase."""
        state = (self.supervisor.phase, self.supervisor.cause, self.supervisor.text)
        if state != self._journaled:
            self._journaled = state
            journal.write(render_phase_entry(self.supervisor, time.time()))

    def _read_signal(self, number: signal.Signals) -> tuple[Cause, str]:
        cause = judge_signal(number, self.plan.end_time_unix_s, time.time())
        texts = {Cause.INTERRUPTED: "interrupted", Cause.TIME_LIMIT: _TIME_IS_UP}
        return cause, texts.get(cause, f"cancelled ({number.name})")

    def _pass_on(self, name: str) -> list[Order]:
        """Tell the job of a signal that SLURM or the user has sent it by way of us."""
        runs = self.supervisor.count(GuestPhase.RUNNING)
        self.progress.note(f"{name} passed on to the job" if runs else f"{name} came, but there is no job that runs")
        return [Order(OrderKind.SIGNAL, text=name)] if runs else []

    def _obey(self, orders: list[Order]) -> None:
        for order in orders:
            self.step.send(self._write_peers(order) if order.kind is OrderKind.PEERS else order)

    def _write_peers(self, order: Order) -> Order:
        """Addresses of all hosts travel by file: an order is one line, and one copy of it goes to every host."""
        offers = self.supervisor.rendezvous.reported(EventKind.TUNNEL_OFFER)
        peers = msgspec.json.encode([Peer(offer.host, offer.address, offer.port, offer.text) for offer in offers])
        write_file(Path(self.job_dir.peers), peers)
        return Order(order.kind, mtu=order.mtu, text=plan_digest(peers))

    def _show(self) -> None:
        self.progress.pause(self.viewers.screen_is_taken)
        if self.viewers.screen_is_taken:
            return
        for note in self.supervisor.notes[self._noted :]:
            self.progress.note(note)
        self._noted = len(self.supervisor.notes)
        if self._unseen and self.supervisor.phase is Phase.RUNNING:
            self._unseen = False
            self.progress.note(_WAY_IN)
        states = {str(phase): count for phase, count in self.supervisor.counts.items() if count}
        ready = self.supervisor.count(GuestPhase.READY, GuestPhase.RUNNING, GuestPhase.ENDED)
        self.progress.update(states, ready, len(self.plan.guests))

    def _linger(self) -> None:
        """When all hosts went away at once, SLURM's TERM to us may still be on its way: it is the true cause."""
        doubtful = self.supervisor.cause is Cause.LOST and self.plan.mode is Mode.CLUSTER
        until_s = time.monotonic() + (_LINGER_S if doubtful else 0)
        while (left_s := until_s - time.monotonic()) > 0:
            for happening in self.step.take(left_s):
                if isinstance(happening, signal.Signals) and happening not in NOTICES:
                    self.supervisor.on_signal(*self._read_signal(happening), time.monotonic())
                    return
        if doubtful and self.supervisor.told_to_end:  # outside the job no signal comes, or late: salloc's command
            state, reason = read_job_state(self.plan.slurm_job_id)
            if is_job_over(state):
                cause = judge_job_end(state, reason, self.plan.end_time_unix_s, time.time())
                self.supervisor.learn(
                    cause, _TIME_IS_UP if cause is Cause.TIME_LIMIT else "the SLURM job was cancelled"
                )
