# SPDX-License-Identifier: Apache-2.0
"""Launch over 100 nodes with fake guests, against `srun -N100 hostname`; by turns, each in a job of its own.

All nodes are this one machine, so that the elapsed time is that of 100 interpreters on a few processors, which no
real cluster sees. What one would see is derived: the share of the launch that does not grow with the number of nodes
on a processor, from the CPU seconds of the whole machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

from box import NOTHING, REPO, Box, bring_up
from cluster import JOB_DIR, Event, run_cluster
from figures import Figure, Goal, make_figure
from machine import read_busy_s

NODES = 100
GOAL_RATIO = 1.5

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

    def compare(key: str, plain: str) -> list[float]:
        return [pair["chrun"][key] / pair["srun"][plain] for pair in pairs]

    cores = os.cpu_count() or 1
    own_s = [(pair["chrun"]["launch_cpu_s"] - pair["srun"]["cpu_s"]) / NODES for pair in pairs]
    spared = [pair["chrun"]["launched_s"] - own * (NODES / cores - 1) for pair, own in zip(pairs, own_s, strict=True)]
    return [
        make_figure(f"srun -N{NODES} hostname", "s", take("srun", "elapsed_s")),
        make_figure(f"chrun, {NODES} fake guests: command to last QEMU exec", "s", take("chrun", "launched_s")),
        make_figure("the same / srun", "ratio", compare("launched_s", "elapsed_s"), Goal(GOAL_RATIO)),
        make_figure("chrun: command to all ready", "s", take("chrun", "ready_s")),
        make_figure("CPU of the machine, srun", "s", take("srun", "cpu_s")),
        make_figure("CPU of the machine, chrun until last exec", "s", take("chrun", "launch_cpu_s")),
        make_figure("CPU of a node beyond srun's until exec", "s", own_s),
        make_figure("derived: chrun to last exec, a processor for each node", "s", spared),
    ]


def _run_pair(box: Box) -> dict[str, Any]:
    busy = [box.settle()]
    plain = _run_plain(box)
    busy.append(box.settle())
    return {"others_busy": busy, "srun": plain, "chrun": _run_chrun(box)}


def _run_plain(box: Box) -> dict[str, float]:
    command = f"date +%s.%N; srun {' '.join(_SIZE)} --mpi=none hostname >/dev/null; date +%s.%N"
    before_s = read_busy_s()
    begin_s, end_s = map(float, box.run("salloc", "-Q", *_SIZE, "sh", "-c", command).split())
    return {"elapsed_s": end_s - begin_s, "cpu_s": read_busy_s() - before_s}


def _run_chrun(box: Box) -> dict[str, Any]:
    """Run a cluster of fake guests. The nodes' memory is made up: fakes need none, real guests more than there is."""
    before_s = read_busy_s()
    cpu_s: dict[str, float] = {}  # of the machine, until the last event of each kind

    def watch(event: Event) -> None:
        cpu_s[event["kind"]] = read_busy_s() - before_s

    environment = 'unset SLURM_MEM_PER_CPU; export SLURM_MEM_PER_NODE=4000 PATH="$PWD/fakes:$PATH";'
    stages_s = run_cluster(box, NODES, "image.qcow2", environment=environment, on_event=watch)
    shutil.rmtree(box.folder / JOB_DIR)
    return {
        "launched_s": stages_s["QEMU started"],
        "ready_s": stages_s["ready"],
        "launch_cpu_s": cpu_s["guest_started"],
        "stages_s": stages_s,
    }
