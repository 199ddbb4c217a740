# SPDX-License-Identifier: Apache-2.0
"""What a launch needs for its network, tried with the launch's own code: call each in a process that is thrown away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from chslurm.diagnosis import Tried
from chslurm.errors import ChslurmError
from chslurm.host.fabric import Fabric, own_address, start_fabric
from chslurm.host.links import find_link_alias
from chslurm.host.namespaces import Namespaces, open_tap
from chslurm.host.pasta import find_global_address, find_interface
from chslurm.host.sitetaps import find_site_offer
from chslurm.host.tunnelport import reserve_tunnel_port
from chslurm.jobnet import JobNames, parse_alias
from chslurm.netdiagnosis import NetworkFacts, TunnelFacts
from chslurm.network import HostNetwork, make_host_network
from chslurm.plan import Mode
from chslurm.tunnel import Peer

_Facts = TypeVar("_Facts")

_SETTINGS = (
    "user.max_user_namespaces",
    "user.max_net_namespaces",
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
)
_SOMEBODY = "192.0.2.1"
"""Another host, to which nothing is sent: an address of documentation (RFC 5737)."""

_LINK_S = 2.0
"""For each of those that may join a network to others: all of it has to be said before nobody listens any more."""

_VNI, _PATH_MTU = 1, 1500


def try_network() -> NetworkFacts:
    """Make namespaces, a TAP, bridge and filters as those of a host of two, and a WireGuard device."""
    settings = {name: text for name in _SETTINGS if (text := _read_setting(name))}
    network = make_host_network(1, 1, Mode.CLUSTER, 2)
    try:
        namespaces = Namespaces(uplink=True)
    except ChslurmError as error:
        return NetworkFacts(Tried(trouble=error.message, hint=error.hint), settings)
    found = Tried("a user namespace with two network namespaces can be made")
    obstacle = namespaces.find_wireguard_obstacle()
    wireguard = Tried(trouble=obstacle) if obstacle else Tried("a device can be made")
    tun = _try(lambda: open_tap(network.guests[0].tap), "a TAP can be made")
    filters = None if tun.trouble else _try(lambda: namespaces.apply(network.steps, choose=True), "loaded")
    return NetworkFacts(found, settings, tun, filters, namespaces.refused, wireguard)


def try_outside(logs: Path) -> Tried | None:
    """Join a network to the outside, as that of a workstation's guests, and say how; None when there is no network."""

    async def join(fabric: Fabric) -> str:
        return fabric.join_outside()

    network = make_host_network(1, 1, Mode.WORKSTATION)
    return _try_with_fabric(network, logs, lambda fabric: _try_in(logs, lambda: asyncio.run(join(fabric))))


def try_vxlan(logs: Path, other: str) -> TunnelFacts | None:
    """Open the tunnel to another host, which there is not; None when there is no network of ours.

    Our address is that toward `other`, by name or address, as in a launch; without one, any that others could reach.
    """

    def open_tunnel(fabric: Fabric) -> str:
        address = _find_address(other)
        with reserve_tunnel_port() as port:
            number = port.getsockname()[1]
            peers = [Peer(1, address, number), Peer(2, _SOMEBODY, number)]
            guarded = fabric.open_tunnel(peers, _VNI, _PATH_MTU, port)
        kept = "" if guarded else "; this release of pasta leaves its port open to other users of the node"
        return f"opens, carried by pasta over {find_interface(address)}{kept}"

    def look(fabric: Fabric) -> TunnelFacts:
        obstacle = fabric.find_wireguard_obstacle()
        return TunnelFacts(_try_in(logs, lambda: open_tunnel(fabric)), carried=fabric.joined, wireguard=obstacle)

    return _try_with_fabric(make_host_network(1, 1, Mode.CLUSTER, 2), logs, look)


def _try_with_fabric(network: HostNetwork, logs: Path, work: Callable[[Fabric], _Facts]) -> _Facts | None:
    with ExitStack() as stack:
        try:
            fabric = stack.enter_context(start_fabric(network, logs, link_s=_LINK_S))
        except ChslurmError:  # told by rows of its own
            return None
        return work(fabric)


def _try_in(logs: Path, work: Callable[[], str]) -> Tried:
    try:
        return Tried(work())
    except ChslurmError as error:
        hint = "" if error.hint.startswith(f"see {logs}") else error.hint  # logs of a trial are gone with it
        return Tried(trouble=error.message, hint=hint)


def find_site(mode: Mode, job_id: str) -> str:
    """Return what root has made here for us, in words; empty when nothing."""
    if mode is Mode.WORKSTATION:
        offer = find_site_offer()
        return "" if offer is None else f"on this workstation; {offer.words}"
    offered = parse_alias(find_link_alias(JobNames(int(job_id)).bridge))
    return "" if offered is None else f"for this job, with {offered.tap_ct} TAPs"


def has_room(mode: Mode, job_id: str, guest_ct: int) -> bool:
    """Say whether a launch would take root's network."""
    if mode is Mode.WORKSTATION:
        site = find_site_offer()
        return site is not None and len(site.slots) >= guest_ct
    job = parse_alias(find_link_alias(JobNames(int(job_id)).bridge))
    return job is not None and not job.open and job.tap_ct >= guest_ct


def _find_address(other: str) -> str:
    """An address of ours by which others could be reached: no default route is needed for that. Raises ChslurmError."""
    if other:
        try:
            return own_address(other)
        except ChslurmError as error:
            if not isinstance(error.__cause__, socket.gaierror):  # SLURM need not know a node by its name
                raise
    if address := find_global_address():
        return address
    raise ChslurmError("this host has no address by IPv4 that others could reach", hint="ip -4 address shows all")


def _try(work: Callable[[], object], found: str) -> Tried:
    try:
        work()
    except ChslurmError as error:
        return Tried(trouble=error.message, hint=error.hint)
    return Tried(found)


def _read_setting(name: str) -> str:
    with suppress(OSError):
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    return ""
