# SPDX-License-Identifier: Apache-2.0
"""How the launcher shows what it does: a live line on a terminal, timed lines in a batch log.

What can't be shown (a closed pipe, a full disk) is not a reason to end a cluster: it is not shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from chslurm.cluster import Progress

_LEAST_GAP_S = 5.0
"""A batch log gets no more than one line on the state of guests in this time, but the last one always."""


@contextmanager
def start_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """Show progress until the end of the block."""
    target = stream or sys.stdout
    if not target.isatty():
        yield Lines(target)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("ready"), BarColumn(bar_width=20), TimeElapsedColumn())
    with RichProgress(
        *columns, TextColumn("{task.description}", markup=False), console=Console(file=target), transient=True
    ) as live:
        yield Live(live)


class Lines:
    """Timed lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = ""
        self._next_s = 0.0

    def note(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        lines = "".join(f"{stamp}: {line}\n" for line in text.splitlines())
        with suppress(OSError, ValueError):
            self._stream.write(lines)
            self._stream.flush()

    def update(self, states: Mapping[str, int], ready: int, total: int) -> None:
        line = f"{ready} of {total} guests ready ({render_states(states)})"
        now_s = time.monotonic()
        if line != self._shown and (now_s >= self._next_s or ready == total):
            self.note(line)
            self._shown, self._next_s = line, now_s + _LEAST_GAP_S

    def pause(self, paused: bool) -> None:
        """Lines can be read beside whatever else writes there."""


class Live:
    """One line that changes, with notes above it."""

    def __init__(self, live: RichProgress) -> None:
        self._live = live
        self._task: TaskID | None = None

    def note(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._live.console.print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)

    def update(self, states: Mapping[str, int], ready: int, total: int) -> None:
        if self._task is None:
            self._task = self._live.add_task("", total=total)
        with suppress(OSError, ValueError):
            self._live.update(self._task, completed=ready, total=total, description=render_states(states))

    def pause(self, paused: bool) -> None:
        with suppress(OSError, ValueError):
            if paused is self._live.live.is_started:
                (self._live.stop if paused else self._live.start)()


def render_states(states: Mapping[str, int]) -> str:
    """Return `2 booting, 1 ready`."""
    return ", ".join(f"{count} {state}" for state, count in states.items() if count)
