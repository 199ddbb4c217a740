# SPDX-License-Identifier: Apache-2.0
"""What this machine gives a cluster when there is no SLURM: the same questions that `host/slurm.py` answers.

And what is to be known about a node's own folders, whoever gave it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath

from chslurm.allocation import Allocation, Node
from chslurm.errors import ChslurmError
from chslurm.plan import Mode
from chslurm.planner import find_file_system

_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


def read_allocation() -> Allocation:
    """Return this machine as an allocation of one node."""
    total_mib, free_mib = read_memory()
    limit_mib = min((total_mib, *read_memory_limits()))
    node = Node(socket.gethostname(), len(os.sched_getaffinity(0)), limit_mib, min(free_mib, limit_mib))
    return Allocation(Mode.WORKSTATION, (node,))


def find_memory_folder_warning(folder: str | PurePath) -> str | None:
    """Return a warning when files in `folder` take memory, as on diskless nodes; SLURM counts that as the job's."""
    text = Path("/proc/self/mountinfo").read_text(errors="replace")
    kind = find_file_system(text, Path(folder).resolve())
    if kind not in _MEMORY_FILE_SYSTEMS:
        return None
    return (
        f"{folder} is in the node's memory ({kind}): what guests write there counts as the job's memory;"
        " --tmp-dir names another folder"
    )


def read_memory() -> tuple[int, int]:
    """Return all memory of the machine and what is available now, in MiB."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    sizes = dict(re.findall(r"^(\w+):\s+([0-9]+) kB$", text, re.MULTILINE))
    try:
        return int(sizes["MemTotal"]) >> 10, int(sizes["MemAvailable"]) >> 10
    except KeyError as error:
        raise ChslurmError(f"/proc/meminfo: no {error.args[0]}") from error


def read_memory_limits() -> Iterator[int]:
    """Return limits in MiB of all control groups above us; version 1 writes a huge number for none, version 2 `max`."""
    for root, group, version in _find_memory_groups():
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):
                yield int((folder / _LIMIT_FILES[version]).read_text()) >> 20
            if folder == root:
                break


def count_killed() -> int:
    """Return how many processes the kernel has killed in our control group for want of memory."""
    for _, group, version in _find_memory_groups():
        with suppress(OSError):
            found = re.search(r"^oom_kill (\d+)$", (group / _EVENT_FILES[version]).read_text(), re.MULTILINE)
            if found and int(found[1]):
                return int(found[1])
    return 0


_LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}
_EVENT_FILES = {1: "memory.oom_control", 2: "memory.events"}


def _find_memory_groups() -> Iterator[tuple[Path, Path, int]]:
    """Where the hierarchy is mounted, our control group in it, and its version."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, version = Path("/sys/fs/cgroup"), 2
        elif "memory" in controllers.split(","):
            root, version = Path("/sys/fs/cgroup/memory"), 1
        else:
            continue
        yield root, root / path.lstrip("/"), version
