# SPDX-License-Identifier: Apache-2.0
"""How one host's network becomes part of the cluster's: with the outside (workstation), or with the other hosts.

try WireGuard -> offer our address and port, and say if we can't -> what all hosts said comes by file -> choose the kind
of tunnel, as every host does -> try the path to the next host -> the smallest path of all comes by order -> open
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from chslurm.errors import ChslurmError
from chslurm.guest_files import ClusterKeys
from chslurm.host.fabric import Fabric, find_other, own_address
from chslurm.host.jobtaps import JobFabric
from chslurm.host.keys import make_token
from chslurm.host.lines import tell
from chslurm.host.pathmtu import PathProbe
from chslurm.host.sharedfiles import read_shared
from chslurm.host.tapfabric import TapFabric
from chslurm.host.tunnelport import reserve_tunnel_port
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, Order, OrderKind
from chslurm.network import DEFAULT_MTU
from chslurm.plan import Host, Mode, Plan, TunnelKind
from chslurm.planner import render_names
from chslurm.tunnel import JOINED, Peer, make_guest_mtu
from chslurm.wireguard import HostKeys, choose_tunnel, derive_host_keys


class Tunnel:
    """One host's part in joining."""

    def __init__(self, plan: Plan, host: Host, fabric: Fabric | TapFabric | JobFabric, keys: ClusterKeys) -> None:
        self.plan = plan
        self.keys = keys
        self.host = host
        self.fabric = fabric
        loop = asyncio.get_running_loop()
        self._orders: dict[OrderKind, asyncio.Future[Order]] = {
            kind: loop.create_future() for kind in (OrderKind.PEERS, OrderKind.MTU)
        }

    def hear(self, order: Order) -> None:
        """Take in PEERS or MTU."""
        if not self._orders[order.kind].done():
            self._orders[order.kind].set_result(order)

    async def join(self) -> int:
        """Complete the network; return the MTU of guests in bytes. Raises ChslurmError."""
        if self.plan.mode is Mode.WORKSTATION:
            assert not isinstance(self.fabric, JobFabric)
            self._tell(EventKind.NODE_NOTE, text=self.fabric.join_outside())
            return DEFAULT_MTU
        if isinstance(self.fabric, JobFabric):
            self._tell(EventKind.NODE_NOTE, text=self.fabric.describe())
        if len(self.plan.hosts) == 1:
            return DEFAULT_MTU
        if isinstance(self.fabric, JobFabric):
            return await self._meet_hosts(self.fabric)
        return await self._join_hosts()

    async def _meet_hosts(self, fabric: JobFabric) -> int:
        """Root has joined the hosts: they only agree that it is so, and on the MTU of guests."""
        self._tell(EventKind.TUNNEL_OFFER, address=JOINED)
        self._check_alike(await self._read_peers(await self._orders[OrderKind.PEERS]))
        self._tell(EventKind.TUNNEL_MTU, mtu=fabric.offer.mtu)
        return (await self._orders[OrderKind.MTU]).mtu

    async def _join_hosts(self) -> int:
        assert isinstance(self.fabric, Fabric)
        with reserve_tunnel_port() as port:
            # It answers from before the others know our address.
            probe = PathProbe(port, make_token(self.keys, "path probe"))
            try:
                address = own_address(find_other((host.name for host in self.plan.hosts), self.host.name))
                obstacle = self._find_wireguard_obstacle(self.fabric)
                self._tell(EventKind.TUNNEL_OFFER, address=address, port=port.getsockname()[1], text=obstacle)
                peers = await self._read_peers(await self._orders[OrderKind.PEERS])
                self._check_alike(peers)
                kind = self._choose(peers)
                following = peers[self.host.number % len(peers)]
                self._tell(EventKind.TUNNEL_MTU, mtu=await probe.measure(following, self.plan.deadlines.tunnel_s))
                path_mtu = (await self._orders[OrderKind.MTU]).mtu
            finally:
                probe.close()
            keys = await asyncio.to_thread(self._derive_keys) if kind is TunnelKind.WIREGUARD else None
            if not self.fabric.open_tunnel(peers, self.plan.vni, path_mtu, port, keys):
                harm = "who can stop what comes by it" if keys else "who can read and forge what comes by it"
                text = f"this release of pasta leaves the tunnel's port open to the other users of the node, {harm}"
                self._tell(EventKind.NODE_NOTE, text=text)
        return make_guest_mtu(path_mtu, kind)

    def _check_alike(self, peers: list[Peer]) -> None:
        """Raise ChslurmError when root has made a network on some hosts, and not on others."""
        with_it = [self.plan.host(peer.host_number).name for peer in peers if peer.joined]
        without = [self.plan.host(peer.host_number).name for peer in peers if not peer.joined]
        if with_it and without:
            places = f"on {render_names(with_it)}, and not on {render_names(without)}"
            hint = "use --network rootless, and tell the site"
            raise ChslurmError(f"can't join the hosts: root has made a network for this job {places}", hint=hint)

    def _find_wireguard_obstacle(self, fabric: Fabric) -> str:
        """Raise ChslurmError when this host can't do what it must."""
        if self.plan.tunnel is TunnelKind.VXLAN:
            return ""
        obstacle = fabric.find_wireguard_obstacle()
        if obstacle and self.plan.tunnel is TunnelKind.WIREGUARD:
            hint = "use --tunnel auto, or ask the site for the kernel's module wireguard"
            raise ChslurmError(f"can't make a WireGuard device: {obstacle}", hint=hint)
        return obstacle

    def _choose(self, peers: list[Peer]) -> TunnelKind:
        obstacles = {self.plan.host(peer.host_number).name: peer.obstacle for peer in peers}
        choice = choose_tunnel(self.plan.tunnel, obstacles)
        self._tell(EventKind.NODE_NOTE, text=choice.reason)
        return choice.kind

    def _derive_keys(self) -> HostKeys:
        """All keys come from the private key of the cluster's authority: every host has it, and no guest."""
        secret, numbers = self.keys.authority.encode(), (host.number for host in self.plan.hosts)
        return derive_host_keys(secret, self.plan.cluster_id, self.host.number, numbers)

    async def _read_peers(self, order: Order) -> list[Peer]:
        text = await read_shared(Path(JobDir(Path(self.plan.job_dir)).peers), order.text)
        try:
            peers = msgspec.json.decode(text, type=list[Peer])
        except msgspec.MsgspecError as error:
            raise ChslurmError(f"can't read the hosts' addresses: {error}") from error
        return peers

    def _tell(self, kind: EventKind, *, text: str = "", address: str = "", port: int = 0, mtu: int = 0) -> None:
        tell(Event(kind, self.host.number, text=text, address=address, port=port, mtu=mtu))
