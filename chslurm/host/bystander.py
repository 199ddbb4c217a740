# SPDX-License-Identifier: Apache-2.0
"""The node's part in a check of the network: what any process of an ordinary user there can do, see and be asked.

It is in the task of the host, and only where the plan says that this is a trial. It listens at all addresses of the
node, offers a service at the guests' gateway, sees what reaches the bridge, tries doors and sends datagrams; and it has
the filters taken away when the head says so, who alone can.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from chslurm.errors import ChslurmError
from chslurm.filters import Family
from chslurm.host.anyfabric import AnyFabric
from chslurm.host.fabric import Fabric
from chslurm.host.jobtaps import JobFabric
from chslurm.host.lines import tell
from chslurm.host.nameserver import read_resolvers
from chslurm.host.pasta import ADMIN_PATH
from chslurm.host.process import run
from chslurm.host.sharedfiles import read_shared
from chslurm.host.stranger import send_as
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind
from chslurm.plan import Host, Plan
from chslurm.trial import HEARD, SNIFFED, Door, HostOrders, HostPart, HostWord, find_mark, pack

_PATIENCE_S = 2.0
_MOST_ADDRESSES, _MOST_DOORS = 4, 8
_WELL_KNOWN = (22, 53, 111, 2049, 6817, 6818)
"""ssh, names, rpcbind, NFS, slurmctld, slurmd."""


class Bystander:
    """A process on the node while the network is checked."""

    def __init__(self, plan: Plan, host: Host, fabric: AnyFabric) -> None:
        self.plan, self.host, self.fabric = plan, host, fabric
        self.seen: dict[str, set[tuple[int, int]]] = {SNIFFED: set(), HEARD: set()}
        self._mark = bytes.fromhex(plan.cluster_id[:8])
        self._without: tuple[Family, ...] = ()
        self._pass = 0
        self._tcp = socket.create_server(("", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._udp.bind(("", 0))
        self._sockets = [self._tcp, self._udp]
        self._service: socket.socket | None = None
        self._watch(self._udp, HEARD)
        if isinstance(fabric, Fabric):
            witness, self._service = fabric.join_trial()
            self._watch(witness, SNIFFED)
            self._sockets += [witness, self._service]

    def close(self) -> None:
        """See and hear no more."""
        for one in self._sockets:
            asyncio.get_running_loop().remove_reader(one)
            one.close()

    async def introduce(self) -> None:
        """Say where this node can be reached, and what it reaches."""
        addresses = read_addresses()
        near = [*_read_gateways(), os.environ.get("SLURM_LAUNCH_NODE_IPADDR", ""), *read_resolvers(), *addresses]
        candidates = [(place, port) for place in dict.fromkeys(near) if _is_far(place) for port in _WELL_KNOWN]
        opened = await self._try(candidates)
        self._tell(
            HostWord(
                0,
                tuple(addresses[:_MOST_ADDRESSES]),
                self._tcp.getsockname()[1],
                self._udp.getsockname()[1],
                self._service.getsockname()[1] if self._service else 0,
                tuple(candidates[place] for place in opened[:_MOST_DOORS]),
                vxlan=self.fabric.vxlan if isinstance(self.fabric, JobFabric) else (0, 0),
            )
        )

    async def take_turn(self, digest: str) -> None:
        """Do this host's part of what the head wrote, and say what was seen. Raises ChslurmError."""
        text = await read_shared(Path(JobDir(Path(self.plan.job_dir)).trial), digest)
        try:
            orders = msgspec.json.decode(text, type=HostOrders)
        except msgspec.MsgspecError as error:
            raise ChslurmError(f"can't read a turn of the check: {error}") from error
        if orders.without != self._without and isinstance(self.fabric, Fabric):
            self.fabric.filter_without(orders.without)
            self._without = orders.without
        part = orders.hosts.get(str(self.host.number), HostPart())
        for address, port, payload in part.datagrams:
            with suppress(OSError):  # nobody there is what should be
                self._udp.sendto(bytes.fromhex(payload), (address, port))
        user, strange = orders.second_user, part.strange
        obstacle = await asyncio.to_thread(send_as, user, strange) if strange else ""
        opened = await self._try(part.doors)
        seen = {
            how: pack(probe for number, probe in seen if number == orders.number) for how, seen in self.seen.items()
        }
        carried = self.fabric.count_gateway_frames() if isinstance(self.fabric, JobFabric) else None
        self._tell(HostWord(orders.turn, opened=pack(opened), seen=seen, carried=carried, obstacle=obstacle))

    def _watch(self, source: socket.socket, how: str) -> None:
        def take() -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    if found := find_mark(data, self._mark):
                        self.seen[how].add(found)

        asyncio.get_running_loop().add_reader(source, take)

    async def _try(self, doors: Sequence[Door]) -> list[int]:
        """Return the places of the doors that open."""

        async def knock(address: str, port: int) -> bool:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    _, writer = await asyncio.open_connection(address, port)
            except (OSError, TimeoutError):
                return False
            writer.close()
            return True

        answers = await asyncio.gather(*(knock(*door) for door in doors))
        return [place for place, answer in enumerate(answers) if answer]

    def _tell(self, word: HostWord) -> None:
        tell(Event(EventKind.TRIAL, self.host.number, text=msgspec.json.encode(word).decode()))


async def start_bystander(plan: Plan, host: Host, fabric: AnyFabric) -> Bystander | None:
    """Return the bystander of this host, which has said who it is; None for any cluster but those of a check."""
    if not plan.trial:
        return None
    bystander = Bystander(plan, host, fabric)
    await bystander.introduce()
    return bystander


def read_addresses() -> list[str]:
    """The node's own, without loopback."""
    told = json.loads(run(["ip", "-json", "-4", "address", "show", "up"], env=ADMIN_PATH).stdout or "[]")
    return [str(info["local"]) for link in told for info in link.get("addr_info", []) if _is_far(info["local"])]


def _read_gateways() -> list[str]:
    told = json.loads(run(["ip", "-json", "-4", "route", "show", "default"], env=ADMIN_PATH).stdout or "[]")
    return [str(route["gateway"]) for route in told if "gateway" in route]


def _is_far(address: str) -> bool:
    """Whether this is an IPv4 address that others could have."""
    try:
        return not IPv4Address(address).is_loopback
    except ValueError:
        return False
