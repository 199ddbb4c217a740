# SPDX-License-Identifier: Apache-2.0
"""The machine that figures are taken on: what it is, whether it is quiet, and what processes have used of it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

QUIET_SHARE = 0.1
"""Others may use this share of all processors while we measure."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WATCH_S = 2.0


def describe_machine(repo: Path) -> dict[str, str]:
    """Return what has to be known to compare figures with those of another day or machine."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "date": f"{datetime.now().astimezone():%F %T %z}",
        "processor": f"{len(models)} x {models[0] if models else 'unknown'}",
        "memory": f"{memory_gib:.0f} GiB",
        "kernel": os.uname().release,
        "qemu": _first_line("qemu-system-x86_64", "--version"),
        "slurm": _first_line("slurmctld", "-V"),
        "chslurm": _first_line("git", "-C", str(repo), "describe", "--always", "--dirty"),
    }


def wait_until_quiet(patience_s: float) -> float:
    """Wait until others leave the processors alone; return the share of them in use at the end of the wait.

    Not the load average: that remembers for minutes what we did ourselves.
    """
    deadline_s = time.monotonic() + patience_s
    while True:
        before, start_s = read_busy_s(), time.monotonic()
        time.sleep(_WATCH_S)
        share = (read_busy_s() - before) / (time.monotonic() - start_s) / (os.cpu_count() or 1)
        if share <= QUIET_SHARE or time.monotonic() > deadline_s:
            return round(share, 3)


def read_busy_s() -> float:
    """Return the CPU seconds that the whole machine has used, with those that its own host kept from it (proc(5))."""
    words = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def read_cpu_s(pid: int, *, with_children: bool = False) -> float:
    """Return the CPU seconds of all threads of a process; with those of its children that have ended, if wanted."""
    fields = _read_stat(pid)
    return sum(map(int, fields[11 : 15 if with_children else 13])) / _TICKS_PER_S


def read_family_cpu_s(pid: int, without: int) -> float:
    """Return the CPU seconds of a process and all its descendants, alive or ended, but for `without`."""
    children: dict[int, list[int]] = {}
    for child, parent in _read_parents():
        children.setdefault(parent, []).append(child)
    total_s, todo = 0.0, [pid]
    while todo:
        member = todo.pop()
        if member != without:
            total_s += read_cpu_s(member, with_children=True)
            todo += children.get(member, [])
    return total_s


def find_parent(pid: int) -> int:
    """Return the id of the parent of a process."""
    return int(_read_stat(pid)[1])


def _read_parents() -> Iterator[tuple[int, int]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                yield int(entry.name), find_parent(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue


def _read_stat(pid: int) -> list[str]:
    """Return the fields of proc(5), `stat`, from the third, `state`, on: the name before may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _first_line(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.partition("\n")[0].strip()
