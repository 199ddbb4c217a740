# SPDX-License-Identifier: Apache-2.0
"""Which signals ask the head for the end, and which are for the job."""

from __future__ import annotations

import os
import signal

from chslurm.host.signals import hear_signals


def test_notices_are_not_taken_for_wishes_to_end() -> None:
    ends, notices = list[signal.Signals](), list[signal.Signals]()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    with hear_signals() as hearers:
        os.kill(os.getpid(), signal.SIGUSR2)  # for nobody yet
        hearers.ends.append(ends.append)
        hearers.notices.append(notices.append)
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR2):
            os.kill(os.getpid(), number)
    assert ends == [signal.SIGTERM]
    assert notices == [signal.SIGUSR1, signal.SIGUSR2]
    assert {number: signal.getsignal(number) for number in before} == before


def test_what_was_ignored_before_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with hear_signals() as hearers:
            heard = list[signal.Signals]()
            hearers.ends.append(heard.append)
            os.kill(os.getpid(), signal.SIGHUP)
        assert heard == []
    finally:
        signal.signal(signal.SIGHUP, before)
