# SPDX-License-Identifier: Apache-2.0
"""Guests are as large as the allocation allows and no larger, also when they use all they have."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from realbox import Box, Result, wait_for

pytestmark = [pytest.mark.real, pytest.mark.alone]  # what SLURM gives depends on what others have

NODE_MIB = 1500

GREEDY = """#!/usr/bin/python3
# Use all memory of this guest: page cache and buffers first, then nearly all that is available, every page of it.
import os, time
from pathlib import Path

for path in Path("/usr/lib/x86_64-linux-gnu").glob("*.so*"):
    path.read_bytes()
for place in ("/ch/tmp", "/ch/data1"):
    with open(f"{place}/{os.environ['CH_GUEST_ID']}.bin", "wb") as file:
        file.write(os.urandom(1 << 20) * 64)
available = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable"))
memory = bytearray((available << 10) - (16 << 20))
memory[::4096] = b"x" * len(memory[::4096])
Path(f"/ch/data1/{os.environ['CH_GUEST_ID']}.full").touch()
while not Path("/ch/data1/enough").exists():
    time.sleep(0.5)
"""


def plan_in(box: Box, *allocation: str, chrun: tuple[str, ...] = ()) -> dict[str, Any]:
    """The plan that a job of this size gets."""
    done = dry_run(box, *allocation, chrun=chrun)
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def dry_run(box: Box, *allocation: str, chrun: tuple[str, ...] = ()) -> Result:
    return box("salloc", "--quiet", *allocation, "chrun", "--dry-run", *chrun, box.image)


@pytest.mark.parametrize(
    ("allocation", "nodes"),
    [
        (("-N3", "--mem=1500M", "-c1"), [(1, 1500)] * 3),
        (("-N2", "--mem=2G", "--ntasks-per-node=2"), [(2, 2048)] * 2),
        (("-N2", "-c2", "--mem-per-cpu=700"), [(2, 1400)] * 2),
        (("-N3", "-n4", "--mem-per-cpu=1000M"), [(2, 2000), (1, 1000), (1, 1000)]),
        (("-N1", "--exclusive"), [(2, None)]),
        (("-N1", "-c1"), [(1, None)]),
        (("-N1", "-c1", "--mem=0"), [(1, None)]),
    ],
)
def test_plan_has_what_slurm_gave(box: Box, allocation: tuple[str, ...], nodes: list[tuple[int, int | None]]) -> None:
    """None stands for what SLURM's own record of the job says, where the request does not."""
    own = "import os, subprocess; print(subprocess.getoutput('scontrol -d show job ' + os.environ['SLURM_JOB_ID']))"
    record = box("salloc", "--quiet", *allocation, "python3", "-c", own).stdout
    (given,) = set(re.findall(r"Nodes=\S+ CPU_IDs=\S+ Mem=(\d+)", record)) if None in dict(nodes).values() else {0}
    plan = plan_in(box, *allocation)
    assert [(host["cores"], host["memory_mib"]) for host in plan["hosts"]] == [
        (cores, int(given) if memory_mib is None else memory_mib) for cores, memory_mib in nodes
    ]
    for guest, (cores, _) in zip(plan["guests"], nodes, strict=True):
        memory_mib = plan["hosts"][guest["host"] - 1]["memory_mib"]
        assert guest["cores"] == cores
        assert memory_mib * 2 / 3 - 300 < guest["ram_mib"] < memory_mib - 300


def test_guests_are_spread_in_even_blocks(box: Box) -> None:
    plan = plan_in(box, "-N3", "--exclusive", chrun=("-n5",))
    assert [host["guest_ct"] for host in plan["hosts"]] == [2, 2, 1]
    assert [host["first_guest"] for host in plan["hosts"]] == [0, 2, 4]
    assert [(guest["host"], guest["slot"]) for guest in plan["guests"]] == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]
    assert [guest["cores"] for guest in plan["guests"]] == [1, 1, 1, 1, 2]
    first, *_, last = (guest["ram_mib"] for guest in plan["guests"])
    assert 2 * first < last


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (("--my-size", "--ram", "100G"), ("100 GiB", " MiB for it")),
        (("--my-size", "--cores", "3"), ("3 cores", "has 1")),
        (("-n5",), ("5 guests", "1.465 GiB")),
        (("-n300",), ("300", "253")),
    ],
)
def test_more_than_the_allocation_is_refused_with_both_numbers(
    box: Box, options: tuple[str, ...], numbers: tuple[str, ...]
) -> None:
    done = dry_run(box, "-N1", "-c1", f"--mem={NODE_MIB}M", chrun=options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1)
    assert [number for number in numbers if number not in done.stderr] == [], done.stderr


def test_guests_may_be_smaller_than_the_allocation(box: Box) -> None:
    plan = plan_in(box, "-N2", "--exclusive", chrun=("--my-size", "--ram=512M", "--cores=1"))
    assert [(guest["cores"], guest["ram_mib"]) for guest in plan["guests"]] == [(1, 512)] * 2


def test_peak_memory_stays_within_the_allocation(box: Box) -> None:
    """Also when every guest uses all of its memory. SLURM would kill the job for more, or swap out others."""
    (box.folder / "data").mkdir()
    box.write("data/x", "")
    (box.folder / "data").chmod(0o777)
    script = box.write("greedy.py", GREEDY)
    job = box.sbatch(
        "chrun", "--jobdir", "c", "--dir", "data", "--job", script, box.image,
        nodes=2, options=("--cpus-per-task=1", f"--mem={NODE_MIB}M"),
    )  # fmt: skip
    peaks: dict[str, int] = defaultdict(int)

    def measure() -> bool:
        for node, memory_mib in measure_nodes(job.id).items():
            peaks[node] = max(peaks[node], memory_mib)
        return all((box.folder / "data" / f"{guest}.full").exists() for guest in (0, 1)) or "End" in job.output

    wait_for(measure, 120, lambda: job.output)
    measure()
    box.write("data/enough", "")
    record = job.wait()
    assert (record["JobState"], record["ExitCode"]) == ("COMPLETED", "0:0"), job.output
    plan = json.loads((job.dir / "run" / "plan.json").read_text())
    print(f"allocation {NODE_MIB} MiB, RAM of guests {plan['guests'][0]['ram_mib']} MiB, peaks {dict(peaks)}")
    assert set(peaks) == {"cn001", "cn002"}
    for peak_mib in peaks.values():
        assert plan["guests"][0]["ram_mib"] < peak_mib < NODE_MIB


def measure_nodes(job: str) -> dict[str, int]:
    """MiB that a job has on each of its nodes: all its processes by their share, and its files in memory."""
    sizes: dict[str, int] = defaultdict(int)
    files: dict[tuple[str, int], int] = {}
    for node, process in find_processes(job):
        try:
            pss = re.findall(r"^Pss: +(\d+) kB$", (process / "smaps_rollup").read_text(), re.M)
            page_tables = re.findall(r"^VmPTE:\s+(\d+) kB$", (process / "status").read_text(), re.M)
            sizes[node] += (int(pss[0]) + int(page_tables[0])) << 10
            for fd in (process / "fd").iterdir():
                if str(fd.readlink()).startswith("/memfd:"):
                    files[node, fd.stat().st_ino] = fd.stat().st_blocks * 512
        except (OSError, IndexError):
            continue  # it has just ended
    for (node, _), size in files.items():
        sizes[node] += size
    return {node: size >> 20 for node, size in sizes.items()}


def find_processes(job: str) -> Iterator[tuple[str, Path]]:
    """Node and folder in /proc of each process of a job, known by the environment that SLURM gave it."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = dict(word.partition("=")[::2] for word in environ.read_text(errors="replace").split("\0"))
        except OSError:
            continue
        if variables.get("SLURM_JOB_ID") == job and "SLURMD_NODENAME" in variables:
            yield variables["SLURMD_NODENAME"], environ.parent
