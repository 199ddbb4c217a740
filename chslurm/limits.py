# SPDX-License-Identifier: Apache-2.0
"""What a site allows its users, and what is said to who asks for more.

Limits are the site's policy, held by the launcher. They are no wall: a user can run a program of his own, and what that
may do is for SLURM's control groups, the kernel and the network to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePath
from typing import TypeVar

from chslurm.allocation import Allocation, Node
from chslurm.errors import UsageError
from chslurm.kinds import Mode, NetworkKind, TunnelKind
from chslurm.siteconfig import LIMITS_TABLE
from chslurm.units import quote, render_size

_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Limits:
    """The site's limits. None: there is no such limit; an empty tuple: nothing of it is allowed."""

    reserved_cores: int = 0  # of each node, or of the job's part of it
    reserved_ram_mib: int = 0
    guests_per_node: int | None = None
    image_folders: tuple[str, ...] | None = None
    networks: tuple[NetworkKind, ...] | None = None
    tunnels: tuple[TunnelKind, ...] | None = None
    workstations: tuple[str, ...] | None = None  # names of machines
    file: str = ""  # that says so

    def say(self, name: str) -> str:
        """Return where a limit stands, for messages."""
        return f"{LIMITS_TABLE}.{name} in {self.file}"


NO_LIMITS = Limits()


def choose_allowed(wanted: _Choice, allowed: Sequence[_Choice] | None, name: str, limit: str) -> _Choice:
    """Return what is wanted; of AUTO, the kind that is allowed, when there is only one. Raises UsageError."""
    if allowed is None or wanted in allowed:
        return wanted
    if wanted == "auto":
        return allowed[0] if len(allowed) == 1 else wanted
    raise UsageError(
        f"can't use {name} {wanted}: the site does not allow it ({limit})",
        hint=f"use {' or '.join(allowed)}, or leave it out",
    )


def reserve(allocation: Allocation, limits: Limits) -> Allocation:
    """Return the allocation less what guests have to leave alone. Raises UsageError when nothing is left."""
    if not limits.reserved_cores and not limits.reserved_ram_mib:
        return allocation
    return replace(allocation, nodes=tuple(_reserve(node, allocation.mode, limits) for node in allocation.nodes))


def _reserve(node: Node, mode: Mode, limits: Limits) -> Node:
    cores, memory_mib = node.cores - limits.reserved_cores, node.memory_mib - limits.reserved_ram_mib
    in_job = mode is Mode.CLUSTER
    if cores < 1:
        raise UsageError(
            f"can't use node {node.name}: of its {node.cores} cores the site reserves {limits.reserved_cores}"
            f" ({limits.say('reserved_cores')})",
            hint="ask SLURM for more cores (--cpus-per-task)" if in_job else "use another machine",
        )
    if memory_mib < 1:
        raise UsageError(
            f"can't use node {node.name}: of its {render_size(node.memory_mib)} the site reserves"
            f" {render_size(limits.reserved_ram_mib)} ({limits.say('reserved_ram')})",
            hint="ask SLURM for more memory (--mem)" if in_job else "use another machine",
        )
    return replace(node, cores=cores, memory_mib=memory_mib)


def check_guests(limits: Limits, node: Node, count: int, cores: int) -> None:
    """Raise UsageError when so many guests with so many cores each are too many for one node, less its reserve."""
    most = limits.guests_per_node
    if most is not None and count > most:
        raise UsageError(
            f"can't place {count} guests on node {node.name}: the site allows {most} ({limits.say('guests_per_node')})",
            hint="ask for fewer guests (-n), or for more nodes",
        )
    if limits.reserved_cores and count * cores > node.cores:
        raise UsageError(
            f"can't give {count} guests {cores} cores each on node {node.name}: {node.cores} are left of what the site"
            f" reserves {limits.reserved_cores} of ({limits.say('reserved_cores')})",
            hint="ask for fewer guests (-n) or fewer cores",
        )


def check_machine(limits: Limits, host_name: str) -> None:
    """Raise UsageError when no guests may run on this machine outside of a SLURM job."""
    allowed = limits.workstations
    names = {host_name.lower(), host_name.lower().partition(".")[0]}
    if allowed is not None and not names & {name.lower() for name in allowed}:
        raise UsageError(
            f"can't run guests on {host_name} outside of a SLURM job: the site does not allow it"
            f" ({limits.say('workstations')})",
            hint="use salloc or sbatch",
        )


def check_place(limits: Limits, what: str, path: PurePath, folders: Sequence[PurePath]) -> None:
    """Raise UsageError when a file, `what` with its real path, lies in none of the folders, links resolved, too."""
    if limits.image_folders is not None and not any(path.is_relative_to(folder) for folder in folders):
        allowed = ", ".join(map(quote, limits.image_folders)) or "none"
        raise UsageError(
            f"can't use {what} {quote(str(path))}: it is not in a folder that the site allows"
            f" ({limits.say('image_folders')})",
            hint=f"use one in {allowed}" if limits.image_folders else "ask the site for one",
        )
