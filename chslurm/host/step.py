# SPDX-License-Identifier: Apache-2.0
"""The step as the head sees it: one child (srun, or `oneguest` itself on a workstation) that carries all hosts' lines.

Its standard output brings events, its standard input takes orders, its standard error tells what SLURM has to say.
Threads read and keep the beat; everything, signals of the head too, arrives in one queue: the head is a plain loop.
"""

from __future__ import annotations

import queue
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import BinaryIO

from chslurm.host.files import open_append
from chslurm.host.process import describe_exit, make_own_argv, spawn
from chslurm.host.slurm import make_srun_argv
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, Order, OrderKind, decode_event, encode
from chslurm.plan import Mode, Plan

_LAST_EVENTS_S = 2.0
"""How long events may still be under way when the step has ended."""

Happening = Event | signal.Signals
"""What the head's loop takes in."""

_TASKS_ENDED = re.compile(r"srun: error: \S+: tasks? (?P<tasks>[\d,-]+): (?P<how>.+)")
"""srun's line for tasks that ended badly: `srun: error: cn002: task 1: Killed`, or `cn[002-003]: tasks 1-2: ...`."""

_NODE_FAILED = re.compile(r"srun: error: Node failure on (?P<node>\S+)")

_MAX_TASK = 1 << 16


def make_step_argv(plan: Plan, digest: str, environment: Mapping[str, str], taps: Sequence[int] = ()) -> list[str]:
    """Return the command that starts one `oneguest` on every host: through srun, or right here.

    `taps` are descriptors that it inherits, of all guests in order, when guests are in a network of root's.
    """
    task = make_own_argv("chslurm.cli.oneguest", "--plan", str(JobDir(PurePath(plan.job_dir)).plan))
    task += ["--cluster-id", plan.cluster_id, "--digest", digest]
    if plan.mode is Mode.CLUSTER:
        return make_srun_argv(plan, task, environment)
    given = ["--taps", ",".join(map(str, taps))] if taps else []
    return [*task, "--host-number", "1", *given]


class Step:
    """A running step."""

    def __init__(self, process: subprocess.Popen[bytes], names: Sequence[str], log: BinaryIO) -> None:
        self.process = process
        self._numbers = {name: number for number, name in enumerate(names, start=1)}
        self._log = log
        self._happenings: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        self._closed = threading.Event()

    def send(self, order: Order) -> None:
        """Give an order to all hosts. A step that has ended does not hear it, which is not an error here."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.stdin.write(encode(order))
            self.process.stdin.flush()

    def take(self, timeout_s: float) -> list[Happening]:
        """Return what has happened since the last call; wait up to `timeout_s` for something."""
        happenings: list[Happening] = []
        with suppress(queue.Empty):
            happenings.append(self._happenings.get(timeout=max(timeout_s, 0.0)))
            while True:
                happenings.append(self._happenings.get_nowait())
        return happenings

    def put(self, happening: Happening) -> None:
        """Add something from outside the step, e.g. a signal. Safe in a signal handler."""
        self._happenings.put(happening)

    def beat(self, every_s: float) -> None:
        """Thread: tell the hosts that the head is there, also while it waits for a slow file system."""
        while not self._closed.wait(every_s):
            self.send(Order(OrderKind.BEAT))

    def read_events(self) -> None:
        """Thread: events of the hosts; what is no event goes to the log."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = decode_event(line)
            if event is None or event.kind is EventKind.STEP_ENDED:
                self._write(line)
                continue
            if event.kind is EventKind.NODE_FAILED:
                self._write(line)
            self._happenings.put(event)

    def read_errors(self, events: threading.Thread) -> None:
        """Thread: SLURM's own words; when there are no more, and no more events, the end of the step."""
        assert self.process.stderr is not None
        last = ""
        for raw in self.process.stderr:
            self._write(raw)
            last = raw.decode(errors="replace").strip()
            for lost in read_srun(last, self._numbers):
                self._happenings.put(lost)
        status = self.process.wait()
        events.join(_LAST_EVENTS_S)
        why = describe_exit(status) + (f": {last}" if last and status else "")
        self._happenings.put(Event(EventKind.STEP_ENDED, 0, status=status, text=why))

    def close(self) -> None:
        """Say no more to the hosts."""
        assert self.process.stdin is not None
        self._closed.set()
        with suppress(OSError):
            self.process.stdin.close()

    def _write(self, line: bytes) -> None:
        with suppress(OSError):  # a full disk is no reason to stop listening
            self._log.write(line)


def read_srun(line: str, numbers: Mapping[str, int]) -> list[Event]:
    """Return the hosts that a line of srun says are lost; `numbers` are theirs by name. Ranks count from 0."""
    if match := _TASKS_ENDED.match(line):
        how = f"oneguest ended: {match['how']}"
        hosts = [rank + 1 for rank in _parse_ranks(match["tasks"])]
    elif match := _NODE_FAILED.match(line):
        how = "SLURM reports a node failure"
        hosts = [numbers[match["node"]]] if match["node"] in numbers else []
    else:
        return []
    return [Event(EventKind.NODE_LOST, host, text=f"{how}; see out/step.out") for host in hosts]


def _parse_ranks(text: str) -> Iterator[int]:
    """Ranks of `0-2,5`."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            yield from range(int(first), min(int(last or first), _MAX_TASK) + 1)


@contextmanager
def start_step(
    argv: Sequence[str | PurePath],
    names: Sequence[str],
    log_path: PurePath,
    beat_s: float,
    pass_fds: Sequence[int] = (),
) -> Iterator[Step]:
    """Start the step; `names` are the hosts' names in order. In the end it is given no more input and is waited for.

    It is not tied to the head's life: when the head is killed, the hosts see the end of their input, or miss its beat,
    and wind down in order.
    """
    with open_append(log_path) as log:
        pipe = subprocess.PIPE
        process = spawn(argv, stdin=pipe, stdout=pipe, stderr=pipe, die_with_parent=False, pass_fds=pass_fds)
        step = Step(process, names, log)
        events = threading.Thread(target=step.read_events, daemon=True)
        errors = threading.Thread(target=step.read_errors, args=(events,), daemon=True)
        threads = (events, errors, threading.Thread(target=step.beat, args=(beat_s,), daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield step
        finally:
            step.close()
            _end(process)
            for thread in threads:
                thread.join(_LAST_EVENTS_S)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def _end(process: subprocess.Popen[bytes], patience_s: float = 3.0) -> None:
    """Wait for the step, then ask it, then end it."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
            return
