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
    total_mib, free_mib = _read_memory()
    limit_mib = min((total_mib, *_read_memory_limits()))
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


def _read_memory() -> tuple[int, int]:
    """All memory of the machine and what is available now, in MiB."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    sizes = dict(re.findall(r"^(\w+):\s+([0-9]+) kB$", text, re.MULTILINE))
    try:
        return int(sizes["MemTotal"]) >> 10, int(sizes["MemAvailable"]) >> 10
    except KeyError as error:
        raise ChslurmError(f"/proc/meminfo: no {error.args[0]}") from error


def _read_memory_limits() -> Iterator[int]:
    """Limits in MiB of all control groups above us; version 1 writes a huge number for none, version 2 `max`."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):
                yield int((folder / name).read_text()) >> 20
            if folder == root:
                break
