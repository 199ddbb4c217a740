# SPDX-License-Identifier: Apache-2.0
"""Several programs at the same time, what they print labelled line by line."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from chslurm.host.process import spawn

_AT_ONCE = 32
"""A login costs both sides some CPU: more at once would only wait for each other."""

_LONGEST_LINE = 1 << 16


@dataclass(slots=True)
class _Stream:
    label: bytes
    target: int
    pending: bytes = b""


@dataclass(slots=True)
class _Crowd:
    """The running programs and what of their output is not printed yet."""

    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    open_ends: dict[str, int] = field(default_factory=dict)
    status: int = 0

    def start(self, label: str, argv: Sequence[str]) -> None:
        process = spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.running[label], self.open_ends[label] = process, 2
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            assert source is not None
            stream = _Stream(f"{label}: ".encode(), target.fileno())
            self.selector.register(source, selectors.EVENT_READ, (label, stream))

    def turn(self) -> None:
        """Print what has come; take in who has ended."""
        for key, _ in self.selector.select():
            label, stream = key.data
            data = os.read(key.fd, _LONGEST_LINE)
            _print(stream, data)
            if not data:
                self.selector.unregister(key.fileobj)
                self.open_ends[label] -= 1
                if not self.open_ends[label]:
                    self._bury(label)

    def kill(self) -> None:
        """End those that still run."""
        for process in self.running.values():
            process.kill()
        for label in list(self.running):
            self._bury(label)
        self.selector.close()

    def _bury(self, label: str) -> None:
        process = self.running.pop(label)
        status = process.wait()
        self.status = max(self.status, status if status >= 0 else 128 - status)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def run_together(argvs: Mapping[str, Sequence[str]]) -> int:
    """Run all programs, by label; print each line of theirs as `label: line`. Returns the largest exit status.

    They have no standard input. Raises ProcessError when one can't be started.
    """
    waiting = list(argvs.items())
    crowd = _Crowd()
    try:
        while waiting or crowd.running:
            while waiting and len(crowd.running) < _AT_ONCE:
                crowd.start(*waiting.pop(0))
            crowd.turn()
    finally:
        crowd.kill()
    return crowd.status


def _print(stream: _Stream, data: bytes) -> None:
    """Print whole lines; the rest when it has become one, is too long, or nothing more comes."""
    *lines, stream.pending = (stream.pending + data).split(b"\n")
    if stream.pending and (not data or len(stream.pending) > _LONGEST_LINE):
        lines.append(stream.pending)
        stream.pending = b""
    text = b"".join(stream.label + line + b"\n" for line in lines)
    with suppress(OSError):
        while text:
            text = text[os.write(stream.target, text) :]
