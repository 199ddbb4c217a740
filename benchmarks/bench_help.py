# SPDX-License-Identifier: Apache-2.0
"""`chrun --help`: what everybody waits for first."""

from __future__ import annotations

from box import Box
from figures import Figure, Goal, make_figure

GOAL_S = 0.15


def measure(box: Box) -> tuple[list[Figure], list[object]]:
    """Run it so often and once before."""
    box.settle()
    runs = box.run_inside("inside_timed.py", str(box.repeat + 1), "chrun", "--help")[1:]
    return [
        make_figure("chrun --help", "s", (run["elapsed_s"] for run in runs), Goal(GOAL_S)),
        make_figure("chrun --help, CPU", "s", (run["cpu_s"] for run in runs)),
    ], runs
