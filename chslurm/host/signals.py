# SPDX-License-Identifier: Apache-2.0
"""Signals that come to the head: those that ask for the end, and those that are for the job in the guests."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from chslurm.phases import NOTICES

Hearer = Callable[[signal.Signals], None]


@dataclass(frozen=True, slots=True)
class Hearers:
    """Who is told; empty lists at first, when a signal is for nobody."""

    ends: list[Hearer] = field(default_factory=list)
    notices: list[Hearer] = field(default_factory=list)


@contextmanager
def hear_signals() -> Iterator[Hearers]:
    """Signals go to whoever is in the lists yielded, and end nothing by themselves.

    Those that ask for the end and were ignored stay so (nohup).
    """
    hearers = Hearers()

    def tell(number: int, _: object) -> None:
        came = signal.Signals(number)
        for hear in hearers.notices if came in NOTICES else hearers.ends:
            hear(came)

    ends = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, tell) for number in (*ends, *NOTICES)}
    try:
        yield hearers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
