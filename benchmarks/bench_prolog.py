# SPDX-License-Identifier: Apache-2.0
"""The network of a job made and removed: `misc/slurm-prolog` as slurmd starts it, on a node made of namespaces.

The node is that of the tests with a real kernel, and nothing else of the machine is touched. Needs a Python that has
what the package needs.
"""

from __future__ import annotations

import subprocess
import sys
import time

from box import REPO, Box
from figures import Figure, Goal, make_figure

sys.path[:0] = [str(REPO), str(REPO / "tests" / "kernel")]
JOBS, HANGING_RUNS, ENTERING_RUNS = 100, 5, 20
GOAL_S, HANGING_GOAL_S = 0.15, 2.0
SETTINGS = "TAPS=8"
SIZES = {1: "cn1", 2: "cn[1-2]", 3: "cn[1-3]"}


def measure(box: Box) -> tuple[list[Figure], list[object]]:
    """Time each start of the script, from before the namespaces are entered until it has ended."""
    from joblab import USER, SlurmNode, add_nodes
    from lab import Lab

    def run(node: SlurmNode, verb: str, job_id: int, nodes: str, status: int = 0) -> float:
        began_s = time.monotonic()
        process = node.start(verb, node.environment(job_id, nodes, USER))
        found = process.wait()  # what it prints fits a pipe; with a limit Python looks every 50 ms only
        taken_s = time.monotonic() - began_s
        _, errors = process.communicate()
        if found != status:
            raise SystemExit(f"{verb} of job {job_id} ended with {found}: {errors}")
        return taken_s

    runs: list[object] = []
    figures = []
    with Lab() as lab:
        node = add_nodes(lab, max(SIZES), SETTINGS)[0]
        entering = [_time(node.host.argv("/usr/bin/env", "-i", "/bin/true")) for _ in range(ENTERING_RUNS)]
        figures.append(make_figure("entering the namespaces alone", "s", entering))
        for count, nodes in SIZES.items():
            busy = box.settle()
            taken: dict[str, list[float]] = {"prolog": [], "epilog": []}
            for job_id in range(JOBS + 1):
                for verb, seconds in taken.items():
                    seconds.append(run(node, verb, 1000 * count + job_id, nodes))
            for verb, seconds in taken.items():
                del seconds[0]  # the first compiles what the script imports
                figures.append(make_figure(f"{verb}, nodes: {count}", "s", seconds, Goal(GOAL_S)))
            runs.append({"nodes": count, "others_busy": busy, **taken})
        node.host.hide_by("nft", "exec sleep 60")
        hanging = [run(node, "prolog", 9000 + number, SIZES[3], 70) for number in range(HANGING_RUNS)]
        figures.append(make_figure("prolog, nft hangs", "s", hanging, Goal(HANGING_GOAL_S)))
    return figures, runs


def _time(argv: list[str]) -> float:
    began_s = time.monotonic()
    subprocess.run(argv, check=True)
    return time.monotonic() - began_s
