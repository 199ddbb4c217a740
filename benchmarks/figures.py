# SPDX-License-Identifier: Apache-2.0
"""What a benchmark returns, and how it is shown: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure is to be at most, or at least, this."""

    value: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Say whether `value` is good enough."""
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure with all its samples. Of a ratio each sample is the ratio of two runs side by side."""

    name: str
    unit: str  # "s", "MiB", "ratio"
    samples: tuple[float, ...]
    goal: Goal | None = None

    @property
    def median(self) -> float:
        return median(self.samples)


def make_figure(name: str, unit: str, samples: Iterable[float], goal: Goal | None = None) -> Figure:
    """Return a figure; samples keep four digits after the point, more is noise."""
    return Figure(name, unit, tuple(round(sample, 4) for sample in samples), goal)


def render_table(figures: Sequence[Figure]) -> str:
    """Return the figures as an aligned table: median, range of the samples, goal, and whether that is met."""
    header = ("figure", "unit", "median", "min..max", "runs", "goal", "")
    rows = [header, *map(_render_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _render_row(figure: Figure) -> tuple[str, ...]:
    goal, verdict = "", ""
    if figure.goal is not None:
        goal = str(figure.goal)
        verdict = "met" if figure.goal.is_met(figure.median) else "MISSED"
    low, high = min(figure.samples), max(figure.samples)
    span = f"{low:.3g}..{high:.3g}"
    return figure.name, figure.unit, f"{figure.median:.3g}", span, str(len(figure.samples)), goal, verdict


def write_results(path: Path, machine: dict[str, str], figures: Sequence[Figure], runs: Sequence[object]) -> None:
    """Write figures, every single run, and what they were taken on."""
    result = {
        "machine": machine,
        "figures": [{**dataclasses.asdict(figure), "median": figure.median} for figure in figures],
        "runs": list(runs),
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
