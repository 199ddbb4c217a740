# SPDX-License-Identifier: Apache-2.0
"""The axis of time of a chart. When the beginning or the end is short beside what lies between, as it is in every long
job, it is broken: each part has a scale of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from chslurm.account import Account
from chslurm.timeline import Doing, Span
from chslurm.units import render_duration

GAP = 12
"""Between two parts."""

_STEPS_S = (
    0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 4 * 3600, 12 * 3600, 86400,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the axis with a scale of its own."""

    start_s: float
    end_s: float
    left: float
    right: float

    def place(self, at_s: float) -> float:
        """Return where a moment is; one outside is at the edge."""
        share = (at_s - self.start_s) / (self.end_s - self.start_s) if self.end_s > self.start_s else 0.0
        return self.left + min(1.0, max(0.0, share)) * (self.right - self.left)


@dataclass(frozen=True, slots=True)
class Axis:
    """Where moments are, from the left to the right."""

    parts: tuple[Part, ...]

    def place(self, at_s: float) -> float:
        """Return where a moment is."""
        part = next((part for part in self.parts if at_s <= part.end_s), self.parts[-1])
        return round(part.place(at_s), 2)

    def find_room(self, span: Span, after: float = 0.0) -> tuple[float, float]:
        """Return where a span has most room for words, from where to where, right of `after`."""
        left, right = max(self.place(span.start_s), after), self.place(span.end_s)
        rooms = [(max(left, part.left), min(right, part.right)) for part in self.parts]
        return max(rooms, key=lambda room: room[1] - room[0])


def make_axis(account: Account, left: float, right: float) -> Axis:
    """Return the axis, broken where that shows more."""
    end_s = max([account.elapsed_s, 0.001, *(span.end_s for span in account.phases)])
    ready = [guest.ready_s for guest in account.guests if guest.ready_s is not None]
    down = [span.start_s for guest in account.guests for span in guest.spans if span.what == Doing.SHUTDOWN]
    begun = [span.start_s for guest in account.guests for span in guest.spans if span.what == Doing.JOB]
    first_s = min(end_s, max([*ready, *begun], default=end_s) * 1.1)
    last_s = max(first_s, min(down, default=end_s))
    last_s -= (end_s - last_s) * 0.1
    if not ready or first_s > end_s * 0.25 or last_s - first_s < end_s * 0.6:
        return Axis((Part(0.0, end_s, left, right),))
    shares = [(0.0, first_s, 0.45), (first_s, last_s, 0.35), (last_s, end_s, 0.2)]
    if end_s - last_s > end_s * 0.15 or end_s <= last_s:
        shares = [(0.0, first_s, 0.5), (first_s, end_s, 0.5)]
    room = right - left - GAP * (len(shares) - 1)
    parts = []
    for start_s, until_s, share in shares:
        parts.append(Part(start_s, until_s, left, left + room * share))
        left += room * share + GAP
    return Axis(tuple(parts))


def choose_step(part: Part) -> float:
    """Return how far apart the lines of a part are, in seconds."""
    most = max(2, int((part.right - part.left) / 70))
    span_s = part.end_s - part.start_s
    return next((step_s for step_s in _STEPS_S if span_s / step_s <= most), max(86400.0, span_s / most))


def render_moment(at_s: float, step_s: float = 1.0) -> str:
    """Return a time as the axis has it, which goes on by such steps."""
    if at_s < 120:
        return f"{at_s:.3g} s"
    minutes, seconds = divmod(round(at_s), 60)
    if step_s < 60 <= minutes:
        return render_duration(at_s)
    if minutes < 120:
        return f"{minutes}:{seconds:02} min" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02} h" if minutes else f"{hours} h"
