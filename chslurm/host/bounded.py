# SPDX-License-Identifier: Apache-2.0
"""Work that may hang, break or change its process, done in forked children, all at the same time, each bounded.

A child may enter namespaces or wait for a dead file server: nobody waits for it longer than it is given, and what it
has started is killed with it. Call while there is no other thread and no event loop.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping

from chslurm.host.process import die_with

_MOST_BYTES = 1 << 20
_END_S = 0.5
_TICK_S = 0.01


def run_bounded(work: Mapping[str, Callable[[], bytes]], timeout_s: float) -> dict[str, bytes | None]:
    """Do all of `work`; return what each piece returned, by its name: nothing of what broke, None of what is late."""
    children: dict[int, tuple[str, int]] = {}  # descriptor -> name, pid
    forked = set()
    for name, do in work.items():
        with contextlib.suppress(OSError):  # no more processes are allowed
            pid, fd = _fork(do)
            children[fd] = name, pid
            forked.add(name)
    answers = _collect(children, time.monotonic() + timeout_s)
    _end(pid for _, pid in children.values())
    return {name: answers.get(name) if name in forked else b"" for name in work}


def _collect(children: Mapping[int, tuple[str, int]], until_s: float) -> dict[str, bytes]:
    """Read the answers that come in time."""
    words = dict.fromkeys(children, b"")
    waited, answers = set(children), dict[str, bytes]()
    while waited and (left_s := until_s - time.monotonic()) > 0:
        for fd in select.select(list(waited), [], [], left_s)[0]:
            part = os.read(fd, 65536)
            words[fd] += part
            if not part or len(words[fd]) > _MOST_BYTES:
                waited.discard(fd)
                answers[children[fd][0]] = words[fd]
    for fd in children:
        os.close(fd)
    return answers


def _fork(do: Callable[[], bytes]) -> tuple[int, int]:
    """Return a child that does the work, and where it answers."""
    reader, writer = os.pipe()
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if pid:
        os.close(writer)
        return pid, reader
    try:
        die_with(parent)
        os.setsid()
        os.close(reader)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        answer = memoryview(do())
        while answer:
            answer = answer[os.write(writer, answer) :]
    except BaseException:
        os._exit(1)
    os._exit(0)


def _end(pids: Iterable[int]) -> None:
    """Kill what still runs. A child that waits for a dead disk can't even be killed, and is left to the kernel."""
    left = list(pids)
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until_s = time.monotonic() + _END_S
    while left and time.monotonic() < until_s:
        left = [pid for pid in left if os.waitpid(pid, os.WNOHANG)[0] == 0]
        if left:
            time.sleep(_TICK_S)
