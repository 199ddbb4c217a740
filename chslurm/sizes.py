# SPDX-License-Identifier: Apache-2.0
"""How guests are spread over hosts, and how large each may be.

In an allocation the RAM of a guest is what the node has, less what is not the guest's:

    ram = ((memory - NODE_RESERVE) / guests - GUEST_RESERVE) * (1 - 1/OVERHEAD_SHARE)

so that the job's peak memory stays within what SLURM granted, also when every guest uses all of its RAM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chslurm.addresses import make_layout
from chslurm.allocation import Allocation, Node
from chslurm.errors import UsageError
from chslurm.limits import check_guests
from chslurm.plan import Mode
from chslurm.request import Request
from chslurm.units import render_size

NODE_RESERVE_MIB = 320
"""On each node: the image's kernel (70 MiB of memory, shared by its guests), `oneguest` with the holder of its
namespaces (90), the process that carries the network (20) and, on the first node, the launcher and its `srun` (90)."""

GUEST_RESERVE_MIB = 192
"""For each guest: beside the guest's RAM, QEMU was seen to take 105 MiB of its own under emulation, 64 of it for
translated code, and 25 of shared code; the rest is for the buffers of busy disks and passthrough."""

OVERHEAD_SHARE = 128
"""One part in so many of a guest's memory goes to page tables (1/512) and QEMU's dirty and block maps."""

LEAST_RAM_MIB = 256

MOST_CORES = 255
"""Of one guest: QEMU's q35 machine gives more only with an interrupt-remapping IOMMU."""

_WORKSTATION_GUESTS = 2
_WORKSTATION_CORES = 2
_WORKSTATION_RAM_MIB = 2048


@dataclass(frozen=True, slots=True)
class GuestSize:
    """Cores and RAM of each guest of one host, and how many there are."""

    node: Node
    guest_ct: int
    cores: int
    ram_mib: int


def make_guest_sizes(request: Request, allocation: Allocation) -> tuple[tuple[GuestSize, ...], tuple[str, ...]]:
    """Return the hosts that get guests, with their guests' size, and warnings.

    Raises UsageError, with both numbers, when more is asked for than there is.
    """
    counts = _spread(request, allocation)
    size = _size_in_allocation if allocation.mode is Mode.CLUSTER else _size_on_workstation
    sizes = tuple(size(request, node, count) for node, count in zip(allocation.nodes, counts, strict=True) if count)
    for each in sizes:
        check_guests(request.limits, each.node, each.guest_ct, each.cores)
    return sizes, _warnings(request, allocation, sizes)


def _spread(request: Request, allocation: Allocation) -> Sequence[int]:
    """Guests on each node: blocks as even as can be, the larger ones first."""
    nodes = len(allocation.nodes)
    default = nodes if allocation.mode is Mode.CLUSTER else _WORKSTATION_GUESTS
    guests = default if request.guest_ct is None else request.guest_ct
    each, more = divmod(guests, nodes)
    counts = [each + (number < more) for number in range(nodes)]
    make_layout(min(guests, nodes), counts[0])  # refuses what has no room in the virtual network
    return counts


def _size_in_allocation(request: Request, node: Node, count: int) -> GuestSize:
    most_ram = find_ram_share(node.memory_mib, count)
    if most_ram < LEAST_RAM_MIB:
        raise UsageError(
            f"node {node.name}: {count} guests on {_memory(request, node)} would get {max(most_ram, 0)} MiB RAM "
            f"each, and need at least {LEAST_RAM_MIB} MiB",
            hint="ask for fewer guests (-n), or ask SLURM for more memory (--mem)",
        )
    cores, ram_mib = min(max(node.cores // count, 1), MOST_CORES), most_ram
    if not request.my_size:
        return GuestSize(node, count, cores, ram_mib)
    my_cores, my_ram_mib = request.cores or cores, request.ram_mib or ram_mib
    if my_cores > cores or my_ram_mib > ram_mib:
        raise UsageError(
            f"--my-size: {my_cores} cores and {render_size(my_ram_mib)} for each guest; node {node.name} has {cores} "
            f"and {render_size(ram_mib)} for it",
            hint="ask for less, or ask SLURM for more",
        )
    return GuestSize(node, count, my_cores, my_ram_mib)


def _size_on_workstation(request: Request, node: Node, count: int) -> GuestSize:
    default = _WORKSTATION_CORES
    if request.limits.reserved_cores:  # then guests do not share any
        default = min(default, max(node.cores // count, 1))
    cores = default if request.cores is None else min(request.cores, MOST_CORES)
    ram_mib = _WORKSTATION_RAM_MIB if request.ram_mib is None else request.ram_mib
    most_ram = find_ram_share(node.memory_mib, count)
    if ram_mib > most_ram:
        raise UsageError(
            f"{count} guests with {render_size(ram_mib)} RAM each: this machine's {_memory(request, node)} allow "
            f"{render_size(max(most_ram, 0))} each",
            hint="ask for fewer guests (-n) or less RAM (--ram)",
        )
    return GuestSize(node, count, cores, ram_mib)


def find_ram_share(memory_mib: int, guests: int) -> int:
    """Return the RAM of each of a node's guests, by the formula at the head of this file; an even number of MiB."""
    each = (memory_mib - NODE_RESERVE_MIB) // guests - GUEST_RESERVE_MIB
    return (each - each // OVERHEAD_SHARE) // 2 * 2


def _memory(request: Request, node: Node) -> str:
    """What there is, and what the site keeps of it."""
    limits = request.limits
    kept = f" ({render_size(limits.reserved_ram_mib)} more are reserved: {limits.say('reserved_ram')})"
    return render_size(node.memory_mib) + (kept if limits.reserved_ram_mib else "")


def _warnings(request: Request, allocation: Allocation, sizes: Sequence[GuestSize]) -> tuple[str, ...]:
    warnings = []
    unused = len(allocation.nodes) - len(sizes)
    if unused:
        warnings.append(f"{unused} of {len(allocation.nodes)} nodes get no guest")
    if allocation.mode is Mode.CLUSTER and not request.my_size and (request.cores or request.ram_mib):
        warnings.append("--cores and --ram are not used: the allocation decides; with --my-size they take less")
    if _is_clamped(request, allocation, sizes):
        warnings.append(f"guests get {MOST_CORES} cores, the most of a virtual machine; more guests (-n) use more")
    crowded = next((size for size in sizes if size.guest_ct * size.cores > size.node.cores), None)
    if crowded:
        where = "this machine" if allocation.mode is Mode.WORKSTATION else f"node {crowded.node.name}"
        used = crowded.guest_ct * crowded.cores
        warnings.append(f"{used} virtual cores on the {crowded.node.cores} of {where}: guests share them")
    need_mib = sum(size.guest_ct * size.ram_mib for size in sizes)
    free_mib = allocation.nodes[0].free_mib
    if free_mib is not None and need_mib > free_mib:
        warnings.append(f"guests may use {render_size(need_mib)}; {render_size(free_mib)} are free now")
    return tuple(warnings)


def _is_clamped(request: Request, allocation: Allocation, sizes: Sequence[GuestSize]) -> bool:
    """Say whether a guest would have more cores if QEMU let it."""
    if allocation.mode is Mode.WORKSTATION:
        return (request.cores or 0) > MOST_CORES
    return any(size.cores == MOST_CORES < size.node.cores // size.guest_ct for size in sizes) and not request.my_size
