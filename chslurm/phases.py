# SPDX-License-Identifier: Apache-2.0
"""The life of a cluster and of its guests, and why it ends: the words that supervision and report share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


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


SAME_BLOW_S = 5.0
"""SLURM's TERM reaches the head, the hosts' tasks and (with some process trackers) every QEMU; who tells first is luck.
A guest or node that is lost, and a cancellation within this time, are one and the same."""


@dataclass(slots=True)
class GuestState:
    """What is known of one guest."""

    phase: GuestPhase = GuestPhase.WAITING
    stage: str = ""  # the last thing its boot reported
    status: int | None = None  # of its job
    started_s: float = 0.0
    spoke: bool = False
