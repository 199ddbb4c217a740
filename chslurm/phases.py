# SPDX-License-Identifier: Apache-2.0
"""The life of a cluster and of its guests, and why it ends: the words that supervision and report share."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from chslurm.plan import Deadlines


class Phase(IntEnum):
    """Where the cluster is in its life; it only goes forward."""

    STARTING = 0  # tasks come up, hosts are joined, guests boot
    RUNNING = 1  # guest 0 is ready; jobs run, or the user works in the guests
    FINISHING = 2  # guest 0's script has ended; the others may end theirs
    POWERING_DOWN = 3  # guests shut themselves down
    QUITTING = 4  # QEMUs that are still there are told to end
    KILLING = 5  # the last means
    OVER = 6  # every host has said its last word, or had its time


class GuestPhase(StrEnum):
    """Where one guest is in its life."""

    WAITING = "waiting"
    BOOTING = "booting"
    READY = "ready"
    RUNNING = "running job"
    ENDED = "job ended"
    GONE = "gone"


class Cause(StrEnum):
    """Why the cluster ended."""

    JOB = "job"
    SHUTDOWN = "shutdown"
    LOST = "lost"
    MACHINERY = "machinery"
    TIME_LIMIT = "time limit"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    COMMIT = "commit"  # the job went well, but what a guest changed could not be committed


NOTICES = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals for the job, not for us: SLURM sends them before the time limit, or a user with scancel, as he has chosen."""

_CLOCKS_S = 5
"""How far the clocks of SLURM's controller and of the head's node may differ."""


def judge_signal(number: signal.Signals, end_time_unix_s: float | None, now_unix_s: float) -> Cause:
    """Return what a signal that asks the head for the end means; `end_time_unix_s` is when the allocation ends."""
    if number is signal.SIGINT:
        return Cause.INTERRUPTED
    if number is signal.SIGTERM and end_time_unix_s is not None and now_unix_s >= end_time_unix_s - _CLOCKS_S:
        return Cause.TIME_LIMIT
    return Cause.CANCELLED


def judge_job_end(state: str, reason: str, end_time_unix_s: float | None, now_unix_s: float) -> Cause:
    """Return why SLURM has ended our step, by its record of the job, which is over."""
    in_time = end_time_unix_s is None or now_unix_s < end_time_unix_s - _CLOCKS_S
    return Cause.CANCELLED if state != "TIMEOUT" and reason != "TimeLimit" and in_time else Cause.TIME_LIMIT


SAME_BLOW_S = 5.0
"""SLURM's TERM reaches the head and the hosts' tasks, with some process trackers pasta, too; who tells first is luck.
A guest or node that is lost, and a cancellation within this time, are one and the same."""


CANCEL_SHARES = {Phase.POWERING_DOWN: 0.5, Phase.QUITTING: 0.25, Phase.KILLING: 0.25}
"""How what SLURM leaves us (`Deadlines.cancel_s`) is shared out: most to the guests, whose jobs may save something."""


def find_patience_s(phase: Phase, limits: Deadlines, *, kill_waits: bool) -> float:
    """Return how many seconds a phase of the end may last; `kill_waits`: SLURM kills everything after its KillWait."""
    most_s = {
        Phase.FINISHING: limits.finish_s,
        Phase.POWERING_DOWN: limits.power_down_s,
        Phase.QUITTING: limits.quit_s,
        Phase.KILLING: limits.node_down_s,
    }[phase]
    return min(most_s, limits.cancel_s * CANCEL_SHARES.get(phase, 1.0)) if kill_waits else most_s


LONG_WORK = "-files"
"""Ends a stage that tells how much is done of work that may take minutes: 20-users.62000-files."""

_MOST_TIMES = 10
"""So many times the deadline a guest may take that gets on with such work; it is the guest that says so."""


@dataclass(slots=True)
class GuestState:
    """What is known of one guest. Times are seconds of the supervisor's clock."""

    phase: GuestPhase = GuestPhase.WAITING
    stage: str = ""  # the last thing its boot reported
    status: int | None = None  # of its job
    started_s: float = 0.0
    got_on_s: float = 0.0  # when it last reported progress of long work
    spoke: bool = False
    clean: bool = False  # it has shut itself down, asked or not: its file systems are whole
    end: str = ""  # how it ended, in words

    def reach(self, stage: str, now_s: float) -> None:
        """Take in what the boot reports."""
        if stage.endswith(LONG_WORK) and stage != self.stage:
            self.got_on_s = now_s
        self.stage, self.spoke = stage, True

    def find_delay(self, now_s: float, limits: Deadlines) -> str:
        """Say, in words, that a guest that boots is later than it may be; empty when it is not."""
        age_s = now_s - self.started_s
        if not self.spoke and age_s > limits.silent_s:
            return f"silent for {age_s:.0f} s after its start: the kernel hangs, or the image has no boot hook"
        if now_s - max(self.started_s, self.got_on_s) > limits.ready_s or age_s > _MOST_TIMES * limits.ready_s:
            return f"not ready after {age_s:.0f} s; last stage: {self.stage or 'none'} (see --boot-timeout)"
        return ""
