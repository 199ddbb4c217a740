# SPDX-License-Identifier: Apache-2.0
"""Plan and stage a cluster of 10,000 guests: on as many nodes, and on 100."""

from __future__ import annotations

import shutil

from box import CODE, NOTHING, Box
from figures import Figure, Goal, make_figure

GOAL_S, GOAL_MIB = 2.0, 200.0
GUESTS = 10_000


def measure(box: Box) -> tuple[list[Figure], list[object]]:
    """Time a process that does what the launcher does before it starts the step."""
    box.write("job.sh", NOTHING)
    figures, all_runs = [], list[object]()
    for nodes in (10_000, 100):
        runs = []
        for number in range(box.repeat + 1):
            folder = f"plan{number}"
            box.settle()
            argv = ("python", f"{CODE}/inside_stage.py", box.image, folder, str(nodes), str(GUESTS))
            runs += box.run_inside("inside_timed.py", "1", *argv)
            shutil.rmtree(box.folder / folder)
        del runs[0]  # the first reads everything from disk
        label = f"{GUESTS} guests on {nodes} nodes"
        figures += [
            make_figure(f"plan and stage, {label}", "s", (run["elapsed_s"] for run in runs), Goal(GOAL_S)),
            make_figure(f"peak memory, {label}", "MiB", (run["peak_mib"] for run in runs), Goal(GOAL_MIB)),
        ]
        all_runs += runs
    return figures, all_runs
