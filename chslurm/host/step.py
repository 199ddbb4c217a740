# SPDX-License-Identifier: Apache-2.0
"""The step as the head sees it: one child (srun, or `oneguest` itself on a workstation) that carries all hosts' lines.

Its standard output brings events, its standard input takes orders, its standard error tells what SLURM has to say. Two
threads read; everything, signals of the head too, arrives in one queue, so that the head is a plain loop.
"""

from __future__ import annotations

import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import IO

from chslurm.host.process import describe_exit, spawn
from chslurm.host.slurm import make_srun_argv
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, Order, decode_event, encode
from chslurm.plan import Mode, Plan

Happening = Event | signal.Signals
"""What the head's loop takes in."""

_TASK_ENDED = re.compile(r"srun: error: (?P<node>\S+): tasks? (?P<tasks>[\d,\[\]-]+): (?P<how>.+)")
"""srun's line for tasks that ended badly, e.g. `srun: error: cn002: task 1: Killed`."""

_NODE_FAILED = re.compile(r"srun: error: Node failure on (?P<node>\S+)")


def make_step_argv(plan: Plan, digest: str, environment: Mapping[str, str]) -> list[str]:
    """Return the command that starts one `oneguest` on every host: through srun, or right here."""
    task = [sys.executable, "-P", "-m", "chslurm.cli.oneguest", "--plan", str(JobDir(PurePath(plan.job_dir)).plan)]
    task += ["--cluster-id", plan.cluster_id, "--digest", digest]
    return make_srun_argv(plan, task, environment) if plan.mode is Mode.CLUSTER else [*task, "--host-number", "1"]


class Step:
    """A running step."""

    def __init__(self, process: subprocess.Popen[bytes], names: Sequence[str]) -> None:
        self.process = process
        self._numbers = {name: number for number, name in enumerate(names, start=1)}
        self._happenings: queue.SimpleQueue[Happening] = queue.SimpleQueue()

    def send(self, order: Order) -> None:
        """Give an order to all hosts. A step that has ended does not hear it, which is not an error here."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.stdin.write(encode(order))
            self.process.stdin.flush()

    def next(self, timeout_s: float) -> Happening | None:
        """Return the next thing that happened, or None when nothing did for `timeout_s`."""
        try:
            return self._happenings.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None

    def put(self, happening: Happening) -> None:
        """Add something from outside the step, e.g. a signal. Safe in a signal handler."""
        self._happenings.put(happening)

    def read_events(self, stdout: IO[bytes], log: IO[bytes]) -> None:
        """Thread: events of the hosts; what is no event goes to the log."""
        for line in stdout:
            event = decode_event(line)
            if event is not None and event.kind is not EventKind.STEP_ENDED:
                self._happenings.put(event)
            else:
                log.write(line)

    def read_errors(self, stderr: IO[bytes], log: IO[bytes]) -> None:
        """Thread: SLURM's own words; the end of the step when there are no more."""
        last = ""
        for raw in stderr:
            log.write(raw)
            last = raw.decode(errors="replace").strip()
            self._read_srun(last)
        status = self.process.wait()
        why = describe_exit(status) + (f": {last}" if last and status else "")
        self._happenings.put(Event(EventKind.STEP_ENDED, 0, status=status, text=why))

    def _read_srun(self, line: str) -> None:
        if match := _TASK_ENDED.match(line):
            how = f"oneguest ended: {match['how']}"
        elif match := _NODE_FAILED.match(line):
            how = "SLURM reports a node failure"
        else:
            return
        if number := self._numbers.get(match["node"]):
            self._happenings.put(Event(EventKind.NODE_LOST, number, text=f"{how}; see out/step.out"))


@contextmanager
def start_step(argv: Sequence[str | PurePath], names: Sequence[str], log_path: PurePath) -> Iterator[Step]:
    """Start the step; `names` are the hosts' names in order. In the end it is given no more input and is waited for.

    It is not tied to the head's life: when the head is killed, the hosts see the end of their input, or miss its beat,
    and wind down in order.
    """
    with open(log_path, "ab", buffering=0) as log:
        process = spawn(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            die_with_parent=False,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        step = Step(process, names)
        threads = [
            threading.Thread(target=step.read_events, args=(process.stdout, log), daemon=True),
            threading.Thread(target=step.read_errors, args=(process.stderr, log), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield step
        finally:
            with suppress(OSError):
                process.stdin.close()
            _end(process)
            for thread in threads:
                thread.join(timeout=2.0)
            for stream in (process.stdout, process.stderr):
                with suppress(OSError):
                    stream.close()


def _end(process: subprocess.Popen[bytes], patience_s: float = 3.0) -> None:
    """Wait for the step, then ask it, then end it."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
            return
