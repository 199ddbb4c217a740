# SPDX-License-Identifier: Apache-2.0
"""A network for one SLURM job, made by root on each of its nodes before the job starts: what it is, as data.

    namespace of the node          bridge ch<ID>b without any address, TAPs ch<ID>t<SLOT> of the job's user, ch<ID>v
    namespace chslurm-<JOB ID>     br0, the other end of ch<ID>v, with the gateway's address; vx0 to the other nodes

ID is the number of the job in base 36, as a link's name has 15 characters. So the node itself routes nothing and has no
address that a guest could ask. vx0, of VXLAN or WireGuard, is made from the namespace of the node, where its UDP socket
stays, but in the other at once: the node never has it, so it can't be left there. All follows from what SLURM tells of
the job, and from the site's settings: every node decides for itself, and alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from chslurm.addresses import AddressLayout, GuestAddress, make_layout, make_mac
from chslurm.errors import UsageError
from chslurm.filters import Family, make_packet_filters
from chslurm.jobfilters import make_job_tables_removal, make_node_filters
from chslurm.kinds import Mode, TunnelKind
from chslurm.linkfilters import make_bridge_filters, make_tap_filters
from chslurm.network import (
    BRIDGE_OPTIONS,
    DEFAULT_MTU,
    HostNetwork,
    Place,
    Step,
    Tool,
    join_lines,
    make_filter_step,
    make_sysctls,
)
from chslurm.slurmjob import JobSettings, SlurmJob, is_open
from chslurm.tunnel import Joint, Peer, make_joint

MOST_NODES = 4064
"""Beyond, networks are narrower, and too many nodes' names would have to be found in time."""

_BRIDGE_MAC = 2  # see make_mac
_FIRST_GROUP = 0x63 << 24
_ALIAS = re.compile(
    r"chslurm host=([0-9]{1,5})/([0-9]{1,5}) taps=([0-9]{1,3}) mtu=([0-9]{2,5})"
    r" tunnel=([a-z]{4,9}):([0-9]{1,5})( open)?"
)
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class JobOffer:
    """What a job's bridge tells of its network."""

    host: int
    host_ct: int
    tap_ct: int
    mtu: int  # of guests, in bytes
    tunnel: str  # its kind, or "none"
    port: int = 0  # of UDP
    open: bool = False  # no filters


@dataclass(frozen=True, slots=True)
class JobNames:
    """The names of all that is made for a job."""

    job_id: int

    @property
    def table(self) -> str:
        return f"chslurm_{self.job_id}"

    @property
    def netns(self) -> str:
        return f"chslurm-{self.job_id}"

    @property
    def bridge(self) -> str:
        return f"{self._stem}b"

    @property
    def veth(self) -> str:
        return f"{self._stem}v"

    @property
    def group(self) -> int:
        """The number by which `ip` removes all of the job's links at once, which is faster, if only they have it."""
        return _FIRST_GROUP + self.job_id % (1 << 24)

    @property
    def vni(self) -> int:
        """The number of the job's VXLAN: another one for any two jobs that can run at once."""
        return self.job_id % 0xFFFFFF + 1

    def tap(self, slot: int) -> str:
        return f"{self._stem}t{slot}"

    def owns(self, link: str) -> bool:
        """Say whether a link of the node's namespace is of this job, whatever the settings were that made it."""
        return re.fullmatch(rf"{self._stem}(?:[bv]|t[0-9]{{1,3}})", link, re.ASCII) is not None

    @property
    def _stem(self) -> str:
        return f"ch{_render_base36(self.job_id)}"


@dataclass(frozen=True, slots=True)
class JobNetwork:
    """One node's share of a job's network."""

    job: SlurmJob
    settings: JobSettings

    @property
    def names(self) -> JobNames:
        return JobNames(self.job.id)

    @property
    def layout(self) -> AddressLayout:
        return make_layout(len(self.job.nodes))

    @property
    def vni(self) -> int:
        """The number of the job's VXLAN."""
        return self.names.vni

    @property
    def open(self) -> bool:
        """Whether nothing is filtered, and the bridge is a hub: guests see what they would do, and to whom."""
        return is_open(self.settings, self.job)

    @property
    def udp_port(self) -> int:
        """Where the other nodes send to."""
        return self.settings.find_udp_port(self.job.id)

    @property
    def is_secure(self) -> bool:
        """Whether its nodes are joined by WireGuard."""
        return len(self.job.nodes) > 1 and self.settings.tunnel is TunnelKind.WIREGUARD

    @property
    def guests(self) -> tuple[GuestAddress, ...]:
        """Whoever has a TAP: guests, and in the end the user himself."""
        guests = [self.layout.guest(self.job.host, slot) for slot in range(1, self.settings.tap_ct + 1)]
        guests.append(self.layout.guest(self.job.host, self.layout.most_guests))
        return tuple(
            replace(guest, tap=self.names.tap(int(guest.ip) - int(self.layout.subnet(self.job.host)[0])))
            for guest in guests
        )


def make_job_network(job: SlurmJob, settings: JobSettings) -> JobNetwork:
    """Return this node's share of the network. Raises UsageError when there is no room for it."""
    if len(job.nodes) > MOST_NODES:
        raise UsageError(f"can't make a network for job {job.id}: {len(job.nodes)} nodes, at most {MOST_NODES}")
    return JobNetwork(job, settings)


def make_job_steps(
    network: JobNetwork,
    addresses: Sequence[str] = (),
    path_mtu: int = 0,
    public_keys: Mapping[int, str] | None = None,
) -> tuple[Step, ...]:
    """Return what makes it, in order; until the last step no link is up.

    `addresses` are those of all nodes in the order of the job, `path_mtu` the largest IP packet in bytes that passes
    between them, `public_keys` those of WireGuard: for a job of one node none is needed.
    """
    names, own, port = network.names, _make_host_network(network), network.udp_port
    vni = None if network.is_secure else network.vni
    realm = replace(own.realm, table=names.table, bridge=names.bridge, shared=True, remote=True)
    peers = [Peer(number, address, port) for number, address in enumerate(addresses, start=1)]
    others = [peer for peer in peers if peer.host_number != network.job.host]
    this = peers[network.job.host - 1] if others else None
    joint = make_joint(own, this, others, network.vni, path_mtu, public_keys) if this else None
    judged, ends = make_tap_filters(realm) + make_bridge_filters(realm), [peer.address for peer in others]
    routed = make_packet_filters(own.realm) + (joint.filters.text if joint else "")
    if network.open:  # but the node itself takes no part here, either
        judged, ends, routed = "", [], ""
    apart = make_node_filters(names.table, names.bridge, port, vni, ends)
    loaded = make_job_tables_removal(names.table) + judged + apart
    links = [*(guest.tap for guest in network.guests), names.veth, names.bridge]
    return (
        Step(Place.NODE, Tool.IP, _links(network, joint)),
        Step(Place.NODE, Tool.SYSCTL, _link_sysctls(links, names.bridge)),
        make_filter_step(Place.NODE, Family.BRIDGE, loaded),
        Step(Place.GUESTS, Tool.SYSCTL, make_sysctls(forward=True)),
        *([make_filter_step(Place.GUESTS, Family.INET, routed)] if routed else []),
        *([joint.told] if joint else []),
        Step(Place.GUESTS, Tool.IP, _inside(own) + (joint.routes if joint else "")),
        Step(Place.NODE, Tool.IP, join_lines(f"link set dev {link} up" for link in links)),
    )


def make_job_removal(names: JobNames, links: Iterable[str]) -> tuple[Step, ...]:
    """Return what removes `links`, which are those that are there, and then the tables. The namespace goes between."""
    return (
        Step(Place.NODE, Tool.IP, join_lines(f"link del dev {link}" for link in links)),
        make_filter_step(Place.NODE, Family.BRIDGE, make_job_tables_removal(names.table)),
    )


def make_port_network(offer: JobOffer, tap: str) -> HostNetwork:
    """Return the user's own way to his guests on this node: a TAP with the last address, in a namespace of his own."""
    layout = make_layout(offer.host_ct)
    port = replace(layout.guest(offer.host, layout.most_guests), tap=tap)
    lines = [
        "link set dev lo up",
        f"link set dev {tap} address {port.mac} mtu {offer.mtu} up",
        f"addr add {port.ip}/{port.prefix_bits} brd + dev {tap}",
    ]
    steps = (
        Step(Place.GUESTS, Tool.SYSCTL, make_sysctls(forward=False)),
        Step(Place.GUESTS, Tool.IP, join_lines(lines)),
    )
    return HostNetwork(offer.host, 1, Mode.CLUSTER, (port,), port.gateway, steps)


def render_alias(offer: JobOffer) -> str:
    """Return what a bridge tells of its network."""
    joint = f"tunnel={offer.tunnel}:{offer.port}{' open' if offer.open else ''}"
    return f"chslurm host={offer.host}/{offer.host_ct} taps={offer.tap_ct} mtu={offer.mtu} {joint}"


def parse_alias(text: str) -> JobOffer | None:
    """Return what a bridge tells; None when it is no network of ours."""
    found = _ALIAS.fullmatch(text)
    if found is None:
        return None
    host, host_ct, tap_ct, mtu = (int(found[field]) for field in range(1, 5))
    return JobOffer(host, host_ct, tap_ct, mtu, found[5], int(found[6]), found[7] is not None)


def _make_host_network(network: JobNetwork) -> HostNetwork:
    host, layout = network.job.host, network.layout
    return HostNetwork(host, layout.host_ct, Mode.CLUSTER, network.guests, layout.gateway(host), ())


def _links(network: JobNetwork, joint: Joint | None) -> str:
    """The namespace and all links, down."""
    names, layout, host = network.names, network.layout, network.job.host
    mtu = joint.mtu if joint else DEFAULT_MTU
    kind = network.settings.tunnel if joint else "none"
    port = network.udp_port if joint else 0
    alias = render_alias(JobOffer(host, layout.host_ct, network.settings.tap_ct, mtu, kind, port, network.open))
    options = f"{BRIDGE_OPTIONS} ageing_time 0" if network.open else BRIDGE_OPTIONS
    bridge, gateway = names.bridge, layout.gateway(host)
    taps = [guest.tap for guest in network.guests]
    lines = [
        f"netns add {names.netns}",
        f"link add {bridge} address {make_mac(gateway, kind=_BRIDGE_MAC)} mtu {mtu} type bridge {options}",
        f'link set dev {bridge} group {names.group} addrgenmode none alias "{alias}"',
        f"link add {names.veth} mtu {mtu} type veth"
        f" peer name br0 address {make_mac(gateway)} mtu {mtu} netns {names.netns}",
        *(f"tuntap add dev {tap} mode tap user {network.job.uid} vnet_hdr" for tap in taps),
        *(
            f"link set dev {link} group {names.group} mtu {mtu} addrgenmode none master {bridge}"
            for link in (names.veth, *taps)
        ),
    ]
    return join_lines(lines) + (joint.link if joint else "")


def _inside(own: HostNetwork) -> str:
    return join_lines(
        (
            "link set dev lo up",
            f"addr add {own.gateway}/{own.layout.prefix_bits} brd + dev br0",
            "link set dev br0 up",
        )
    )


def _link_sysctls(links: Sequence[str], bridge: str) -> str:
    """No IPv6, and no answer to ARP for the node's addresses, which the kernel gives at any link."""
    return join_lines(
        (*(f"net.ipv6.conf.{link}.disable_ipv6 = 1" for link in links), f"net.ipv4.conf.{bridge}.arp_ignore = 8")
    )


def _render_base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text or "0"
