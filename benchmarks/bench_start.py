# SPDX-License-Identifier: Apache-2.0
"""From the command to guests that are ready, against bare QEMUs of the same command lines that are started together.

A pair of runs is a cluster by `chrun` in an allocation of n nodes, a guest each, and right after it n bare QEMUs of
the same plan (`inside_bare.py`). Both count as ready when every guest has said `ready` on its control port.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from box import NOTHING, Box
from cluster import JOB_DIR, STAGES, Event, run_cluster
from figures import Figure, Goal, make_figure
from machine import find_parent, read_cpu_s, read_family_cpu_s

GOAL_EXEC_S = 1.0
GOAL_RATIO = 1.15
SIZES = (1, 3)
GUEST = ("--my-size", "--cores 1", "--ram 1G")


def measure(box: Box) -> tuple[list[Figure], list[object]]:
    """Run pairs of all sizes by turns, after one that warms up."""
    box.write("job.sh", NOTHING)
    pairs: dict[int, list[dict[str, Any]]] = {size: [] for size in SIZES}
    for number in range(box.repeat + 1):
        for size in SIZES:
            pair = _run_pair(box, size)
            if number:
                pairs[size].append(pair)
    figures = [figure for size in SIZES for figure in _make_figures(size, pairs[size])]
    return figures, [pair for size in SIZES for pair in pairs[size]]


def _make_figures(size: int, pairs: list[dict[str, Any]]) -> list[Figure]:
    label = f"n={size}"
    clusters, bares = ([pair[kind] for pair in pairs] for kind in ("cluster", "bare"))
    stages = {stage: [run["stages_s"][stage] for run in clusters] for stage in STAGES}
    ready_s, bare_ready_s = stages["ready"], [run["ready_s"] for run in bares]
    cpu_s, bare_cpu_s = ([sum(run["qemu_cpu_s"]) for run in runs] for runs in (clusters, bares))
    return [
        make_figure(f"{label}: command to last QEMU exec", "s", stages["QEMU started"], Goal(GOAL_EXEC_S)),
        make_figure(f"{label}: command to all ready", "s", ready_s),
        make_figure(f"{label}: bare, first exec to all ready", "s", bare_ready_s),
        make_figure(f"{label}: elapsed, cluster / bare", "ratio", _divide(ready_s, bare_ready_s), Goal(GOAL_RATIO)),
        make_figure(f"{label}: QEMU CPU until ready, cluster", "s", cpu_s),
        make_figure(f"{label}: QEMU CPU until ready, bare", "s", bare_cpu_s),
        make_figure(f"{label}: QEMU CPU, cluster / bare", "ratio", _divide(cpu_s, bare_cpu_s), Goal(GOAL_RATIO)),
        make_figure(f"{label}: CPU of a node's task until exec", "s", (max(run["task_cpu_s"]) for run in clusters)),
        *(make_figure(f"{label}: command to {stage}", "s", reached_s) for stage, reached_s in stages.items()),
    ]


def _divide(these: list[float], those: list[float]) -> list[float]:
    return [this / that for this, that in zip(these, those, strict=True)]


def _run_pair(box: Box, size: int) -> dict[str, Any]:
    busy = [box.settle()]
    watch = Watch()
    stages_s = run_cluster(box, size, *GUEST, box.image, on_event=watch.see)
    busy.append(box.settle())
    bare = box.run_inside("inside_bare.py", f"{JOB_DIR}/run/plan.json", node="cn001")
    shutil.rmtree(box.folder / JOB_DIR)
    wanted, tried = (set(map(_without_descriptors, lines)) for lines in (watch.argv.values(), bare.pop("argv")))
    if wanted != tried:
        raise SystemExit(f"the bare QEMUs were not like those of the cluster:\n{tried - wanted}\nnot\n{wanted - tried}")
    cluster = {
        "stages_s": stages_s,
        "task_cpu_s": list(watch.task_cpu_s.values()),
        "qemu_cpu_s": list(watch.qemu_cpu_s.values()),
    }
    return {"n": size, "others_busy": busy, "cluster": cluster, "bare": bare}


class Watch:
    """Looks at the processes of a cluster when its events come; everything by guest."""

    def __init__(self) -> None:
        self.argv: dict[int, list[str]] = {}  # of QEMU
        self.task_cpu_s: dict[int, float] = {}  # of `oneguest` and its helpers, when QEMU was started
        self.qemu_cpu_s: dict[int, float] = {}  # when the guest was ready
        self._pids: dict[int, int] = {}

    def see(self, event: Event) -> None:
        """Take in one event."""
        guest = event.get("guest", -1)
        if event["kind"] == "guest_started":
            pid = self._pids[guest] = event["status"]
            self.argv[guest] = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
            self.task_cpu_s[guest] = read_family_cpu_s(find_parent(pid), without=pid)
        elif event["kind"] == "guest_ready":
            self.qemu_cpu_s[guest] = read_cpu_s(self._pids[guest])


def _without_descriptors(argv: list[str]) -> tuple[str, ...]:
    """Return QEMU's arguments without what differs from run to run, and without where its network leads."""
    numbered = (re.sub(r"fd(=|/)\d+", r"fd\1N", word) for word in argv[1:])
    return tuple(re.sub(r"^(tap|user),id=net,.*", "NETWORK", word) for word in numbered)
