# SPDX-License-Identifier: Apache-2.0
"""What one host needs so that its guests are on the network: links, addresses, routes and filters, as data.

Each `Step` is text for one tool, run in one of two namespaces that one process, the holder, owns:

    GUESTS   bridge br0 with one TAP for each guest, and vx0, VXLAN or WireGuard, that leads to the other hosts
    UPLINK   the underside of the tunnel: up0, which `pasta` joins to the host's network (cluster of several hosts only)

vx0 belongs to GUESTS while its UDP socket stays in UPLINK. So guests of a cluster share a namespace with nothing but
their own cluster: neither the node, its loopback, its network nor a colliding address plan is there to be reached, and
the filters say the same a second time. On a workstation up0 is in GUESTS and guests go out through NAT.

No step has an undo: namespaces, links, routes and filters end with the holder and with the TAPs that QEMU has open.
Traffic between hosts is routed, a network each; `tunnel` has the steps that join them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from chslurm.addresses import AddressLayout, GuestAddress, make_layout, make_mac
from chslurm.filters import Family, Realm, make_packet_filters
from chslurm.kinds import Mode
from chslurm.linkfilters import make_bridge_filters, make_outside_link_filters, make_tap_filters

DEFAULT_MTU = 1500
UPLINK_IP = "172.22.255.100"
UPLINK_GATEWAY = "172.22.255.2"
GUESTS_NETNS = "@guests"
"""Stands for the guests' namespace in the text of a step; nothing else in a step depends on the moment."""

_LOGGED_LINES, _LOGGED_COLUMNS = 40, 400

BRIDGE_OPTIONS = f"stp_state 0 forward_delay 0 mcast_snooping 0 group_fwd_mask {1 << 14}"
"""LLDP (01:80:c2:00:00:0e) is to be passed on, not taken: only then does the bridge ask its filters, which drop it."""


class Place(StrEnum):
    """A network namespace: of the holder; where root makes the network of a job, the node's own, and one beside it."""

    GUESTS = "guests"
    UPLINK = "uplink"
    NODE = "node"


class Tool(StrEnum):
    """What understands the text of a step."""

    SYSCTL = "sysctl"
    IP = "ip"
    BRIDGE = "bridge"
    NFT = "nft"
    WG = "wg set"  # done by our own message to the kernel: wireguard-tools need not be there


@dataclass(frozen=True, slots=True)
class Step:
    """Text that one tool reads in one namespace."""

    place: Place
    tool: Tool
    text: str
    family: Family | None = None  # of the tables, when it is a step of nft


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """One host's share of the virtual network, before it knows anything about the other hosts but their count."""

    host: int
    host_ct: int
    mode: Mode
    guests: tuple[GuestAddress, ...]
    gateway: IPv4Address
    steps: tuple[Step, ...]

    @property
    def layout(self) -> AddressLayout:
        """Who has which network, as `Plan.layout`."""
        return make_layout(self.host_ct)

    @property
    def has_uplink(self) -> bool:
        """Whether a second namespace carries a tunnel to other hosts."""
        return self.mode is Mode.CLUSTER and self.host_ct > 1

    @property
    def nameserver(self) -> IPv4Address | None:
        """Who answers names for guests; nobody on a cluster, where names come from the hosts file."""
        return self.gateway if self.mode is Mode.WORKSTATION else None

    @property
    def realm(self) -> Realm:
        """Whom the filters are about."""
        return Realm(self.layout, self.host, self.mode, self.guests)


def make_host_network(host: int, slots: int, mode: Mode, host_ct: int = 1) -> HostNetwork:
    """Decide the network of host number `host` of `host_ct`, with `slots` guests; UsageError beyond the limits."""
    layout = make_layout(host_ct, slots)
    guests = tuple(layout.guest(host, slot) for slot in range(1, slots + 1))
    realm = Realm(layout, host, mode, guests)
    steps = [
        Step(Place.GUESTS, Tool.SYSCTL, make_sysctls(forward=True)),
        # before anything is up
        make_filter_step(Place.GUESTS, Family.INET, make_packet_filters(realm)),
        make_filter_step(Place.GUESTS, Family.NETDEV, make_tap_filters(realm)),
        make_filter_step(Place.GUESTS, Family.BRIDGE, make_bridge_filters(realm)),
        Step(Place.GUESTS, Tool.IP, _bridge(realm)),
    ]
    if mode is Mode.CLUSTER and host_ct > 1:
        steps.insert(0, Step(Place.UPLINK, Tool.SYSCTL, make_sysctls(forward=False)))
    return HostNetwork(host, host_ct, mode, guests, layout.gateway(host), tuple(steps))


def make_outside_steps(network: HostNetwork) -> tuple[Step, ...]:
    """Return what gives up0 its address on a workstation, once pasta or slirp4netns has made it."""
    return (
        make_filter_step(Place.GUESTS, Family.NETDEV, make_outside_link_filters(network.realm, UPLINK_IP)),
        Step(Place.GUESTS, Tool.IP, make_uplink(f"{UPLINK_IP}/24", DEFAULT_MTU)),
    )


def render_network(network: HostNetwork, later: Sequence[Step] = ()) -> str:
    """Return every step as text for `--explain`, in the order of doing."""
    head = f"network of host {network.host}: {len(network.guests)} guests in {network.layout.subnet(network.host)}\n"
    return head + render_steps((*network.steps, *later))


def render_steps(steps: Iterable[Step]) -> str:
    """Return steps as text."""
    return "\n".join(
        f"in namespace {step.place}, {step.tool}:\n" + "".join(f"    {line}\n" for line in step.text.splitlines())
        for step in steps
    )


def shorten(text: str) -> str:
    """Return the text of a step as a host logs it: that of a large cluster has a line for every host, on every host."""
    lines = text.splitlines()
    shown = [line if len(line) <= _LOGGED_COLUMNS else f"{line[:_LOGGED_COLUMNS]}..." for line in lines[:_LOGGED_LINES]]
    return join_lines(shown) + (f"... and so on, {len(lines)} lines\n" if len(lines) > _LOGGED_LINES else "")


def make_filter_step(place: Place, family: Family, text: str) -> Step:
    """Return a step that loads tables of one family."""
    return Step(place, Tool.NFT, text, family)


def make_sysctls(*, forward: bool) -> str:
    """Return the settings of a namespace of our own."""
    return join_lines(
        (
            f"net.ipv4.ip_forward = {int(forward)}",
            "net.ipv4.conf.all.rp_filter = 1",  # drops what claims to come from where it can't
            "net.ipv4.conf.default.rp_filter = 1",
            "net.ipv4.conf.all.send_redirects = 0",
            "net.ipv4.conf.all.accept_redirects = 0",
            "net.ipv6.conf.all.disable_ipv6 = 1",  # before any link is made: no link-local address to talk to
            "net.ipv6.conf.default.disable_ipv6 = 1",
            "net.bridge.bridge-nf-call-iptables = 0",  # guests of one host are neighbours, not forwarded
        )
    )


def _bridge(realm: Realm) -> str:
    return join_lines(
        [
            "link set dev lo up",
            f"link add br0 address {make_mac(realm.gateway)} type bridge {BRIDGE_OPTIONS}",
            f"addr add {realm.gateway}/{realm.layout.prefix_bits} brd + dev br0",
            "link set dev br0 up",
            *(f"link set dev {guest.tap} master br0 up" for guest in realm.guests),
        ]
    )


def make_uplink(address: str, mtu: int) -> str:
    """Return what gives up0, which pasta has made, its address; an MTU in bytes."""
    return join_lines(
        (
            "link set dev lo up",
            f"link set dev up0 mtu {mtu} up",
            f"addr add {address} dev up0",
            f"route add default via {UPLINK_GATEWAY} dev up0 onlink",
        )
    )


def join_lines(lines: Iterable[str]) -> str:
    """Return the text of a step from its lines."""
    return "".join(f"{line}\n" for line in lines)
