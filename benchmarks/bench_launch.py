# SPDX-License-Identifier: Apache-2.0
"""Launch over 100 nodes with fake guests, against `srun -N100 hostname`; by turns, each in a job of its own.

All nodes are this one machine, so that the elapsed time is that of 100 interpreters on a few processors, which no
real cluster sees. What one would see is estimated: what the head needs before it starts the step, what a step needs to
start here and the CPU seconds of one node's task until it starts QEMU, since nodes do that at the same time.
"""

from __future__ import annotations

import shutil
import subprocess
from statistics import median
from typing import Any

from box import NOTHING, REPO, Box, bring_up
from cluster import JOB_DIR, Event, run_cluster
from figures import Figure, Goal, make_figure
from machine import find_parent, read_busy_s, read_family_cpu_s

NODES = 100
GOAL_RATIO = 1.5

_SAMPLE = 20
"""Of so many nodes the processes of one are looked at: it costs some milliseconds each."""
_SIZE = f"-N{NODES}", f"-n{NODES}"


def measure(box: Box) -> tuple[list[Figure], list[object]]:
    """Make a box of 100 nodes, run pairs in it after one that warms up, and make the usual box again."""
    box.write("job.sh", NOTHING)
    shutil.copytree(REPO / "tests" / "fakes" / "bin", box.folder / "fakes")
    image = box.write("image.qcow2", "")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    bring_up("-n", str(NODES))
    try:
        pairs = [_run_pair(box) for _ in range(box.repeat + 1)][1:]
    finally:
        bring_up()
    return _make_figures(pairs), list(pairs)


def _make_figures(pairs: list[dict[str, Any]]) -> list[Figure]:
    def take(kind: str, key: str) -> list[float]:
        return [pair[kind][key] for pair in pairs]

    estimates = [
        pair["chrun"]["stages_s"]["staged"] + pair["srun"]["elapsed_s"] + pair["chrun"]["task_cpu_s"] for pair in pairs
    ]
    return [
        make_figure(f"srun -N{NODES} hostname", "s", take("srun", "elapsed_s")),
        make_figure(f"chrun, {NODES} fake guests: command to last QEMU exec", "s", take("chrun", "launched_s")),
        make_figure("the same / srun", "ratio", _compare(take("chrun", "launched_s"), pairs), Goal(GOAL_RATIO)),
        make_figure("chrun: command to all ready", "s", take("chrun", "ready_s")),
        make_figure("CPU of the machine: srun", "s", take("srun", "machine_cpu_s")),
        make_figure("CPU of the machine: chrun until last exec", "s", take("chrun", "machine_cpu_s")),
        make_figure("CPU of a node's task until exec", "s", take("chrun", "task_cpu_s")),
        make_figure("estimate for real nodes: command to last exec", "s", estimates),
        make_figure("the same / srun here", "ratio", _compare(estimates, pairs)),
    ]


def _compare(times_s: list[float], pairs: list[dict[str, Any]]) -> list[float]:
    return [time_s / pair["srun"]["elapsed_s"] for time_s, pair in zip(times_s, pairs, strict=True)]


def _run_pair(box: Box) -> dict[str, Any]:
    busy = [box.settle()]
    plain = _run_plain(box)
    busy.append(box.settle())
    return {"others_busy": busy, "srun": plain, "chrun": _run_chrun(box)}


def _run_plain(box: Box) -> dict[str, float]:
    command = f"date +%s.%N; srun {' '.join(_SIZE)} --mpi=none hostname >/dev/null; date +%s.%N"
    before_s = read_busy_s()
    begin_s, end_s = map(float, box.run("salloc", "-Q", *_SIZE, "sh", "-c", command).split())
    return {"elapsed_s": end_s - begin_s, "machine_cpu_s": read_busy_s() - before_s}


def _run_chrun(box: Box) -> dict[str, Any]:
    """Run a cluster of fake guests. The nodes' memory is made up: fakes need none, real guests more than there is."""
    before_s = read_busy_s()
    machine_cpu_s, task_cpu_s = [0.0], list[float]()

    def watch(event: Event) -> None:
        if event["kind"] == "guest_started":
            machine_cpu_s.append(read_busy_s() - before_s)
            if event.get("guest", 0) % _SAMPLE == 0:
                task_cpu_s.append(read_family_cpu_s(find_parent(event["status"]), without=event["status"]))

    environment = 'unset SLURM_MEM_PER_CPU; export SLURM_MEM_PER_NODE=4000 PATH="$PWD/fakes:$PATH";'
    stages_s = run_cluster(box, NODES, "image.qcow2", environment=environment, on_event=watch)
    shutil.rmtree(box.folder / JOB_DIR)
    return {
        "launched_s": stages_s["QEMU started"],
        "ready_s": stages_s["ready"],
        "machine_cpu_s": machine_cpu_s[-1],
        "task_cpu_s": median(task_cpu_s),
        "stages_s": stages_s,
    }
