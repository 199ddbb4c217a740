# SPDX-License-Identifier: Apache-2.0
"""What joins the hosts of a cluster: the device vx0, who is behind it, routes and filters, as steps (see `network`).

Traffic between hosts is routed, a network each: neighbours and forwarding entries of VXLAN are static, nothing is
learned or flooded; WireGuard has neither (see `wireguard`). vx0 is made in UPLINK, where its UDP socket stays, and then
moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, collapse_addresses

from chslurm.addresses import AddressLayout, make_mac
from chslurm.filters import Family, make_more_peers, make_uplink_filters, make_uplink_link_filters
from chslurm.kinds import TunnelKind
from chslurm.linkfilters import make_tunnel_link_filters
from chslurm.network import GUESTS_NETNS, HostNetwork, Place, Step, Tool, join_lines, make_filter_step, make_uplink
from chslurm.wgdevice import FAMILY, WireGuardPeer, render_device

OVERHEAD = {TunnelKind.VXLAN: 50, TunnelKind.WIREGUARD: 60}
"""Bytes that a tunnel over IPv4 adds to a guest's packet.

VXLAN: inner Ethernet 14, outer IPv4 20, UDP 8, VXLAN 8 (RFC 7348). WireGuard: outer IPv4 20, UDP 8, its header 16 and
tag 16; it pads packets to a multiple of 16, but never beyond the MTU of its device.
"""

JOINED = "site"
"""In place of a host's address: its guests are in a network that root has made."""

_PEERS_IN_STEP = 4000
_TUNNEL_MAC = 1  # see make_mac: 0 is the bridge


@dataclass(frozen=True, slots=True)
class Peer:
    """Where one host's end of the tunnel is in the real network."""

    host_number: int
    address: str
    udp_port: int
    obstacle: str = ""  # why this host can't make WireGuard

    @property
    def joined(self) -> bool:
        """Whether root has joined this host to the others already."""
        return self.address == JOINED


@dataclass(frozen=True, slots=True)
class Joint:
    """The device vx0 and what belongs to it."""

    mtu: int
    link: str  # makes it, for `ip`, where its underside is
    filters: Step  # before it is up
    told: Step  # who is behind it
    routes: str  # it is up, and used; for `ip`, in GUESTS


def make_tunnel_steps(
    network: HostNetwork, peers: Sequence[Peer], vni: int, path_mtu: int, public_keys: Mapping[int, str] | None = None
) -> tuple[Step, ...]:
    """Return what joins this host to the others, once pasta has made up0.

    `peers` lists every host of the cluster, this one too; `path_mtu` is the largest IP packet in bytes that passes
    between any two of them; `vni` is the 24-bit number of the virtual network. With the `public_keys` of all hosts the
    tunnel is WireGuard.
    """
    own = next(peer for peer in peers if peer.host_number == network.host)
    others = [peer for peer in peers if peer is not own]
    joint = make_joint(network, own, others, vni, path_mtu, public_keys)
    resize = [f"link set dev {link} mtu {joint.mtu}" for link in ("br0", *(guest.tap for guest in network.guests))]
    return (
        *_uplink_filters(own.udp_port, [(peer.address, peer.udp_port) for peer in others]),
        Step(Place.UPLINK, Tool.IP, make_uplink(f"{own.address}/32", path_mtu) + joint.link),
        joint.filters,
        joint.told,
        Step(Place.GUESTS, Tool.IP, join_lines(resize) + joint.routes),
    )


def make_joint(
    network: HostNetwork,
    own: Peer,
    others: Sequence[Peer],
    vni: int,
    path_mtu: int,
    public_keys: Mapping[int, str] | None = None,
) -> Joint:
    """Return what leads from the guests of one host to those of `others`, wherever its underside is."""
    layout = network.layout
    mtu = make_guest_mtu(path_mtu, TunnelKind.WIREGUARD if public_keys else TunnelKind.VXLAN)
    if public_keys:
        link, told = _wireguard(layout, own, others, public_keys, mtu)
        routes = _direct_routes(network, others)
    else:
        link, told = _vxlan(layout, own, others, vni, mtu)
        routes = _routes(network, others)
    arriving = make_tunnel_link_filters(network.realm, None if public_keys else _tunnel_mac(network.gateway))
    filters = make_filter_step(Place.GUESTS, Family.NETDEV, arriving)
    return Joint(mtu, link, filters, told, join_lines(["link set dev vx0 up", *routes]))


def make_guest_mtu(path_mtu: int, kind: TunnelKind) -> int:
    """Return the MTU of guests whose packets travel in a tunnel of this kind over a path of `path_mtu` bytes."""
    return path_mtu - OVERHEAD[kind]


def _uplink_filters(own_port: int, ends: Sequence[tuple[str, int]]) -> Iterator[Step]:
    """Return what lets packets of the other ends pass, and no others; of thousands of ends in several steps."""
    first = ends[:_PEERS_IN_STEP]
    yield make_filter_step(Place.UPLINK, Family.INET, make_uplink_filters(own_port, first))
    yield make_filter_step(Place.UPLINK, Family.NETDEV, make_uplink_link_filters(own_port, first))
    for start in range(_PEERS_IN_STEP, len(ends), _PEERS_IN_STEP):
        more = ends[start : start + _PEERS_IN_STEP]
        for family in (Family.INET, Family.NETDEV):
            yield make_filter_step(Place.UPLINK, family, make_more_peers(family, more))


def _vxlan(layout: AddressLayout, own: Peer, others: Sequence[Peer], vni: int, mtu: int) -> tuple[str, Step]:
    """Return what makes vx0, and what it has to be told.

    One source port, so that pasta keeps it; never fragmented: what does not fit is refused, with an ICMP.
    """
    mac, port = _tunnel_mac(layout.gateway(own.host_number)), own.udp_port
    link = (
        f"link add vx0 netns {GUESTS_NETNS} address {mac} mtu {mtu} type vxlan id {vni} local {own.address}"
        f" dstport {port} srcport {port} {port + 1} df set nolearning\n"
    )
    return link, Step(Place.GUESTS, Tool.BRIDGE, join_lines(_forwarding(layout, peer) for peer in others))


def _wireguard(
    layout: AddressLayout, own: Peer, others: Sequence[Peer], keys: Mapping[int, str], mtu: int
) -> tuple[str, Step]:
    """The same: its socket stays where the link is made, its name, keys and peers are where it ends up."""
    link = f"link add vx0 netns {GUESTS_NETNS} mtu {mtu} type {FAMILY}\n"
    ends = [
        WireGuardPeer(keys[number], peer.address, peer.udp_port, (layout.subnet(number),))
        for peer in others
        for number in (peer.host_number,)
    ]
    return link, Step(Place.GUESTS, Tool.WG, render_device("vx0", own.udp_port, ends))


def _forwarding(layout: AddressLayout, peer: Peer) -> str:
    to = f"dst {peer.address} port {peer.udp_port}"
    return f"fdb add {_tunnel_mac(layout.gateway(peer.host_number))} dev vx0 {to} self permanent"


def _routes(network: HostNetwork, others: Sequence[Peer]) -> list[str]:
    """Return the routes to other hosts by their gateways, whose neighbours' entries stand here, too.

    No metric is better than another, as each network has one route. But they must differ: the kernel files routes
    by metric and device, not by gateway, and looks through all that are filed alike for each new one.
    """
    lines = []
    for peer in others:
        gateway, subnet = network.layout.gateway(peer.host_number), network.layout.subnet(peer.host_number)
        lines.append(f"neigh add {gateway} lladdr {_tunnel_mac(gateway)} dev vx0 nud permanent")
        lines.append(f"route add {subnet} via {gateway} dev vx0 onlink src {network.gateway} metric {peer.host_number}")
    return lines


def _direct_routes(network: HostNetwork, others: Sequence[Peer]) -> list[str]:
    """Return routes straight into WireGuard, which knows by the address whom to send to: neighbours joined."""
    numbers = sorted(peer.host_number for peer in others)
    subnets = collapse_addresses(map(network.layout.subnet, numbers))
    return [f"route add {subnet} dev vx0 src {network.gateway}" for subnet in subnets]


def _tunnel_mac(gateway: IPv4Address) -> str:
    return make_mac(gateway, kind=_TUNNEL_MAC)
