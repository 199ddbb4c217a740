# SPDX-License-Identifier: Apache-2.0
"""Rows from all nodes of a job: one step of it, whose tasks print them as lines."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from chslurm.checkup import ANSWER_MAX_BYTES, Row, Topic, decode_answer
from chslurm.host.process import spawn

_MOST_ROWS = 2 * len(Topic)
"""Of one node; whoever says more is not listened to."""

_MOST_WORDS = 16 << 10
_END_S = 2.0


@dataclass(slots=True)
class StepAnswers:
    """What came: rows by node, how far the clock of each is ahead of ours, and what srun itself said."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    ahead_s: dict[str, float] = field(default_factory=dict)  # of nodes that have said all
    lost: dict[str, int] = field(default_factory=dict)  # how many rows of a node did not come whole
    words: str = ""


def ask_nodes(argv: Sequence[str], names: Sequence[str], timeout_s: float) -> StepAnswers:
    """Run the step until all of its nodes have answered, or for so long. Raises ProcessError when it can't start."""
    answers = StepAnswers({name: [] for name in names})
    pipe = subprocess.PIPE
    with spawn(argv, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            _listen(process.stdout.fileno(), process.stderr.fileno(), answers, time.monotonic() + timeout_s)
        finally:
            _end(process, answered=len(answers.ahead_s) == len(names))
    return answers


def _end(process: subprocess.Popen[bytes], *, answered: bool) -> None:
    """Let srun end the step: by itself when all has been said, else when told to; killed, it leaves the step behind."""
    if answered:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)


def _listen(out: int, errors: int, answers: StepAnswers, until_s: float) -> None:
    pending, words, open_fds = b"", b"", [out, errors]
    while open_fds and (left_s := until_s - time.monotonic()) > 0 and len(answers.ahead_s) < len(answers.rows):
        for fd in select.select(open_fds, [], [], left_s)[0]:
            data = os.read(fd, 65536)
            if not data:
                open_fds.remove(fd)
            elif fd == errors:
                words = (words + data)[-_MOST_WORDS:]
            else:
                *lines, pending = (pending + data).split(b"\n")
                pending = pending[-ANSWER_MAX_BYTES:]
                for line in lines:
                    _take_in(line, answers)
    answers.words = words.decode(errors="replace").strip()


def _take_in(line: bytes, answers: StepAnswers) -> None:
    answer = decode_answer(line)
    if answer is None or answer.node not in answers.rows:
        return
    rows = answers.rows[answer.node]
    if answer.row is None:
        answers.ahead_s[answer.node] = answer.unix_s - time.time()
        if answer.row_ct > len(rows):
            answers.lost[answer.node] = answer.row_ct - len(rows)
    elif answer.row not in rows and len(rows) < _MOST_ROWS:
        rows.append(answer.row)
