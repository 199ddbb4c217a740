# SPDX-License-Identifier: Apache-2.0
"""The nft rules of one host for IP packets, as text: what may pass between guests, hosts and the outside.

Everything else is dropped. `linkfilters` says the same a second time, of frames, at the links themselves. All of it is
loaded before any link is up. In namespaces of the cluster's own (see `network`) nothing is ever flushed; whoever makes
links in a namespace that others use, too, says `shared` and removes the tables with the links.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from chslurm.addresses import OUTSIDE_LINK, AddressLayout, GuestAddress, make_mac
from chslurm.kinds import Mode


class Family(StrEnum):
    """Where the kernel asks a table's rules."""

    INET = "inet"  # about packets, when they are routed
    NETDEV = "netdev"  # about frames, as they come out of a link
    BRIDGE = "bridge"  # about frames, as they pass the bridge


NEVER = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),  # not routed (RFC 3927); clouds hand out their machines' credentials there
    OUTSIDE_LINK,
    IPv4Network("224.0.0.0/3"),  # multicast, reserved, broadcast
)
"""What is not outside, for guests of a workstation; so is their own network."""


@dataclass(frozen=True, slots=True)
class Realm:
    """One host's guests, and the names of the links and tables that are theirs."""

    layout: AddressLayout
    host: int
    mode: Mode
    guests: tuple[GuestAddress, ...]
    table: str = "chslurm"
    bridge: str = "br0"
    tunnel: str = "vx0"
    outside: str = "up0"
    shared: bool = False  # the namespace has other links, which these rules leave alone
    relays: tuple[int, ...] = ()
    """Ports of the gateway to which root's rules lead what guests ask at 53 and 22: they show in a bridge, too, if it
    asks iptables (br_netfilter)."""
    remote: bool = False  # the gateway is behind a port of the bridge, and the bridge itself is nobody's

    @property
    def subnet(self) -> IPv4Network:
        """The network of the guests here."""
        return self.layout.subnet(self.host)

    @property
    def gateway(self) -> IPv4Address:
        """The address of the bridge."""
        return self.layout.gateway(self.host)

    @property
    def gateway_mac(self) -> str:
        """The MAC of the bridge."""
        return make_mac(self.gateway)

    @property
    def others(self) -> tuple[IPv4Network, ...]:
        """The networks of the cluster's other hosts, neighbours joined."""
        return self.layout.join(1, self.host - 1) + self.layout.join(self.host + 1, self.layout.host_ct)

    @property
    def never(self) -> tuple[IPv4Network, ...]:
        """What is not outside for these guests, and need not be routed."""
        return (*NEVER, self.subnet)


def make_set(name: str, kind: str, elements: Iterable[object], *, interval: bool = False) -> str:
    """Return a set with elements of type `kind`, for the inside of a table."""
    flags = "; flags interval" if interval else ""
    items = ", ".join(map(str, elements))
    return f"    set {name} {{\n        type {kind}{flags}\n        elements = {{ {items} }}\n    }}"


def make_packet_filters(realm: Realm) -> str:
    """Return the table of family inet."""
    return _workstation(realm) if realm.mode is Mode.WORKSTATION else _cluster(realm)


def make_uplink_filters(own_port: int, peers: Sequence[tuple[str, int]]) -> str:
    """Only the tunnels of the other hosts, by address and port: VXLAN itself asks nobody who they are."""
    return f"""\
table inet chslurm {{
{make_set("peers", "ipv4_addr . inet_service", _render_peers(peers))}
    chain forward {{
        type filter hook forward priority filter; policy drop
    }}
    chain input {{
        type filter hook input priority filter; policy drop
        iifname "up0" udp dport {own_port} ip saddr . udp sport @peers accept
    }}
    chain output {{
        type filter hook output priority filter; policy drop
        oifname "up0" udp sport {own_port} ip daddr . udp dport @peers accept
    }}
}}
"""


def make_uplink_link_filters(own_port: int, peers: Sequence[tuple[str, int]]) -> str:
    """The same again, of what comes out of the link; and ARP, which the carrier of the tunnel answers."""
    return f"""\
table netdev chslurm_tunnel {{
{make_set("peers", "ipv4_addr . inet_service", _render_peers(peers))}
    chain arriving {{
        type filter hook ingress device "up0" priority filter; policy drop
        ether type ip udp dport {own_port} ip saddr . udp sport @peers accept
        ether type arp accept
    }}
}}
"""


def make_more_peers(family: Family, peers: Sequence[tuple[str, int]]) -> str:
    """Return what adds peers to the set of one of the two: a batch of nft has to fit the buffer of a socket."""
    table = "chslurm" if family is Family.INET else "chslurm_tunnel"
    return f"add element {family} {table} peers {{ {', '.join(_render_peers(peers))} }}\n"


def _cluster(realm: Realm) -> str:
    """Guests reach guests and ping gateways of their own cluster, and nothing else.

    What passes through is not tracked: it would fill the one table that all users of the node share.
    """
    subnet, gateway, bridge, tunnel = realm.subnet, realm.gateway, realm.bridge, realm.tunnel
    several = realm.layout.host_ct > 1
    ours = f'{{ "{bridge}", "{tunnel}" }}' if several else f'"{bridge}"'
    others = "\n" + make_set("others", "ipv4_addr", realm.others, interval=True) if several else ""
    passing = (
        f"""
        iifname "{bridge}" oifname "{tunnel}" ip saddr {subnet} ip daddr @others accept
        iifname "{tunnel}" oifname "{bridge}" ip saddr @others ip daddr {subnet} accept"""
        if several
        else ""
    )
    pinging = (
        f"""
        iifname "{tunnel}" ip saddr @others ip daddr {gateway} icmp type echo-request accept"""
        if several
        else ""
    )
    return f"""\
table inet {realm.table} {{{others}
    chain untracked {{
        type filter hook prerouting priority raw; policy accept
        iifname {ours} ip daddr != {gateway} notrack
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop{_leave(realm, f"iifname != {ours} oifname != {ours}")}
        iifname "{bridge}" oifname "{bridge}" ip saddr {subnet} ip daddr {subnet} accept{passing}
    }}
    chain input {{
        type filter hook input priority filter; policy drop{_leave(realm, f"iifname != {ours}")}
        ct state established,related accept
        iifname "{bridge}" ip saddr {subnet} ip daddr {gateway} icmp type echo-request accept{pinging}
        iifname "lo" accept
    }}
}}
"""


def _workstation(realm: Realm) -> str:
    """Guests reach the outside, and at the gateway ping, names and ssh (see `host.relay`); nobody reaches them."""
    subnet, gateway, bridge, outside = realm.subnet, realm.gateway, realm.bridge, realm.outside
    foreign = _leave(realm, f'iifname != "{bridge}" oifname != "{bridge}"')
    return f"""\
table inet {realm.table} {{
{make_set("never", "ipv4_addr", realm.never, interval=True)}
    chain forward {{
        type filter hook forward priority filter; policy drop{foreign}
        iifname "{bridge}" oifname "{bridge}" ip saddr {subnet} ip daddr {subnet} accept
        iifname "{bridge}" oifname "{outside}" ip saddr {subnet} ip daddr != @never accept
        iifname "{outside}" oifname "{bridge}" ct state established,related accept
    }}
    chain input {{
        type filter hook input priority filter; policy drop{_leave(realm, f'iifname != "{bridge}"')}
        ct state established,related accept
        iifname "{bridge}" ip saddr {subnet} ip daddr {gateway} icmp type echo-request accept
        iifname "{bridge}" ip saddr {subnet} ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
        iifname "{bridge}" ip saddr {subnet} ip daddr {gateway} tcp dport 22 accept
        iifname "lo" accept
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept
        ip saddr {subnet} oifname "{outside}" masquerade
    }}
}}
"""


def _leave(realm: Realm, foreign: str) -> str:
    """The rule that lets pass what is none of ours, where others have links, too."""
    return f"\n        {foreign} accept" if realm.shared else ""


def _render_peers(peers: Sequence[tuple[str, int]]) -> list[str]:
    return [f"{address} . {port}" for address, port in peers]
