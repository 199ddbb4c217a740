# SPDX-License-Identifier: Apache-2.0
"""The attacks of `chslurm net check`, as frames and connections: requirements S1 to S10 of an isolated network.

    S1 sender's MAC   S2 sender's IPv4   S3 ARP   S4 IPv6   S5 other protocols, DHCP, VLAN
    S6 places outside of the cluster   S7 guests, from outside   S8 services of the host   S9, S10 the tunnel

The first guests of the first two hosts attack. Whatever comes to another guest, to a bridge or to a process on a node
has arrived. L1 and L2 are what has to work.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address

from chslurm import frames
from chslurm.addresses import make_mac
from chslurm.frames import ARP, BROADCAST, IP, IPV6, QINQ, SYN, VLAN, make_arp, make_frame
from chslurm.plan import Mode, NetworkKind, TunnelKind
from chslurm.scene import Control, Probe, Row, Scene, Site, State, Way
from chslurm.trial import MAX_PROBES, make_mark

_ATTACKING_HOSTS = 2
_MOST_GUESTS = 6
"""In what is tried of every guest with every guest."""

_GATEWAY_PORTS = (22, 53, 111, 2049, 6817, 6818)
_NOBODY, _NO_MAC = "02:77:00:00:00:01", "00:00:00:00:00:00"
_ALL_NODES = "33:33:00:00:00:01"
_LIES = ("0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255")
_NEVER = ("169.254.169.254", "127.0.0.1", "172.22.255.2", "224.0.0.251", "255.255.255.255")
_ABROAD = ("172.22.254.1", "172.23.1.1", "10.0.2.2", "8.8.8.8", "192.0.2.1")
_TYPES = (0x8035, 0x9100, 0x8847, 0x8848, 0x8863, 0x8864, 0x88CC, 0x888E, 0x8809, 0x88F7, 0x88E5, 0x22F0, 0x893A)
_ICMP6 = {"neighbour discovery": (135, 136), "router advertisements": (133, 134), "ping to all nodes": (128,)}
_FORGED = Row("S9", "forged VXLAN from a node's process to the other's tunnel")
_STRANGE = Row("S10", "the tunnel's port, by another user of the node")

_Mark = Callable[[], bytes]
_Shot = tuple[Row, bytes]


def make_probes(scene: Scene, number: int) -> tuple[Probe, ...]:
    """Return all probes of pass `number`: the same in every pass, but for their marks."""
    probes: list[Probe] = []

    def mark() -> bytes:
        return make_mark(scene.cluster_id, number, len(probes))

    for site in scene.sites[:_ATTACKING_HOSTS]:
        for row, frame in _frames(scene, site, mark):
            probes.append(Probe(len(probes), row, Way.FRAME, site.guests[0][0], frame))
        for row, way, sender, payload, address, port in _others(scene, site, mark):
            controlled = way is not Way.NODE_DATAGRAM or row.control is Control.OFF  # TCP alone has one from guests
            probes.append(Probe(len(probes), row, way, sender, payload, address, port, controlled))
    assert len(probes) <= MAX_PROBES
    return tuple(probes)


def find_rows_not_tried(scene: Scene) -> Iterator[Row]:
    """Rows that have no probes here, and why."""
    if scene.tunnel_kind is not TunnelKind.VXLAN:
        why_not = "the tunnel is WireGuard" if scene.tunnel_kind else "one host: there is no tunnel"
        yield from (replace(row, why_not=why_not) for row in (_FORGED, _STRANGE))
    elif not scene.second_user:
        yield replace(_STRANGE, why_not="takes a process of a second user: --second-user")
    if scene.network is NetworkKind.SITE:
        yield Row("S12", "all of S1 to S9 without the filters of one family", why_not="filters are root's")
    if scene.network is NetworkKind.SITE and not scene.by_prolog:
        yield Row("S7", "a node's process to guests", why_not="their owner reaches them there")
    if all(len(site.guests) == 1 for site in scene.sites):
        yield Row("S1", "to a guest of the same host", why_not="one guest on each host")


class _Attacker:
    """The first guest of a host, and whom it knows."""

    def __init__(self, scene: Scene, site: Site) -> None:
        self.scene, self.site = scene, site
        self.mac, self.ip = site.guests[0][1].mac, str(site.guests[0][1].ip)
        self.gateway = str(site.guests[0][1].gateway)
        self.gateway_mac = make_mac(IPv4Address(self.gateway))
        neighbours = [address for _, address in site.guests[1:]]
        self.neighbour = (neighbours[0].mac, str(neighbours[0].ip)) if neighbours else None
        self.far = scene.address(site, State.NEXT)
        self.places = [(self.gateway_mac, self.far)] + ([self.neighbour] if self.neighbour else [])

    def send(self, to: str, packet: bytes, kind: int = IP) -> bytes:
        """A frame with the true MAC."""
        return make_frame(to, self.mac, kind, packet)


def _say(sender: str, to: str, data: bytes) -> bytes:
    return frames.make_udp(sender, to, (4000, 7000), data)


def _frames(scene: Scene, site: Site, mark: _Mark) -> Iterator[_Shot]:
    one = _Attacker(scene, site)
    for state in State:
        yield from _false_addresses(one, state, mark)
        yield from _false_arp(one, state, mark)
        yield from _places(one, state, mark)
        yield from _services(one, state, mark)
        yield from _encapsulated(one, state, mark)
    yield from _ipv6(one, mark)
    yield from _dhcp(one, mark)
    yield from _tagged(one, mark)
    yield from _types(one, mark)
    yield from _false_macs(one, mark)  # last: without filters the bridge believes them


def _false_macs(one: _Attacker, mark: _Mark) -> Iterator[_Shot]:
    row = Row("S1", "frames from a MAC that is not the guest's")
    macs = [f"02:{_sample(number)[:5].hex(':')}" for number in range(3 if one.scene.short else 10)]
    for mac in (_NOBODY, *macs):
        for to, ip in one.places:
            yield row, make_frame(to, mac, IP, _say(one.ip, ip, mark()))
    if one.neighbour:
        yield row, make_frame(BROADCAST, one.neighbour[0], IP, _say(one.ip, "255.255.255.255", mark()))


def _false_addresses(one: _Attacker, state: State, mark: _Mark) -> Iterator[_Shot]:
    row = Row("S2", "packets from an address that is not the guest's", state)
    lies: tuple[str, ...] = (one.scene.address(one.site, state),)
    if state is State.OWN:
        row = Row("S2", "packets from the gateway, a neighbour, nobody, loopback, multicast")
        lies = (one.gateway, *([one.neighbour[1]] if one.neighbour else []), *_LIES)
    for lie in lies:
        for to, ip in one.places:
            yield row, one.send(to, _say(lie, ip, mark()))
        yield row, one.send(one.gateway_mac, frames.make_icmp(lie, one.gateway, 8, mark()))


def _false_arp(one: _Attacker, state: State, mark: _Mark) -> Iterator[_Shot]:
    row = Row("S3", "ARP in another's name, as question, answer and to all", state)
    lies = [(one.mac, one.scene.address(one.site, state)), (_NOBODY, one.scene.address(one.site, state))]
    if state is State.OWN:
        neighbour = [(one.mac, one.neighbour[1])] if one.neighbour else []
        lies = [(_NOBODY, one.ip), (one.mac, "0.0.0.0"), *neighbour, (one.mac, one.gateway)]
    to_mac, to_ip = one.neighbour or (one.gateway_mac, one.gateway)
    for lie in lies:
        asks = make_arp(1, lie, (_NO_MAC, to_ip)) + mark()
        yield row, one.send(BROADCAST, asks, ARP)
        yield row, one.send(to_mac, make_arp(2, lie, (to_mac, to_ip)) + mark(), ARP)
        yield row, one.send(BROADCAST, make_arp(2, lie, (BROADCAST, lie[1])) + mark(), ARP)
        yield row, one.send(one.gateway_mac, make_arp(2, lie, (one.gateway_mac, one.gateway)) + mark(), ARP)


def _places(one: _Attacker, state: State, mark: _Mark) -> Iterator[_Shot]:
    """Places that guests have no business with. What a workstation's guests reach by NAT is not among them."""
    row = Row("S6", "UDP, TCP, ICMP, GRE to nodes, other clusters, the outside", state)
    sender, places = one.scene.address(one.site, state), list(_NEVER)
    if one.scene.mode is Mode.CLUSTER or state is not State.OWN:
        nodes = [address for site in one.scene.sites[:_ATTACKING_HOSTS] for address in site.word.addresses[:2]]
        known = [address for address, _ in one.site.word.infrastructure]
        places += dict.fromkeys([*_ABROAD, *known[:3], *nodes])
    else:
        row = Row("S6", "UDP, TCP, ICMP, GRE to loopback, link-local, multicast", state)
    for place in places:
        yield row, one.send(one.gateway_mac, _say(sender, place, mark()))
    for place in places[-3:]:
        yield row, one.send(one.gateway_mac, frames.make_icmp(sender, place, 8, mark()))
        yield row, one.send(one.gateway_mac, frames.make_tcp(sender, place, (4001, 22), SYN, mark()))
        yield row, one.send(one.gateway_mac, frames.make_ip(sender, place, 47, mark()))
        if one.neighbour:
            yield row, one.send(one.neighbour[0], _say(sender, place, mark()))


def _services(one: _Attacker, state: State, mark: _Mark) -> Iterator[_Shot]:
    row, sender = Row("S8", "TCP and UDP to the host, at the gateway", state), one.scene.address(one.site, state)
    kept = {22, 53} if one.scene.mode is Mode.WORKSTATION and state is State.OWN else set()
    for port in (port for port in _GATEWAY_PORTS if port not in kept):
        for make in (_syn, _datagram):
            yield row, one.send(one.gateway_mac, make(sender, one.gateway, port, mark()))


def _syn(sender: str, to: str, port: int, data: bytes) -> bytes:
    return frames.make_tcp(sender, to, (4001, port), SYN, data)


def _datagram(sender: str, to: str, port: int, data: bytes) -> bytes:
    return frames.make_udp(sender, to, (4002, port), data)


def _encapsulated(one: _Attacker, state: State, mark: _Mark) -> Iterator[_Shot]:
    row, sender = Row("S9", "VXLAN from a guest, in IP", state), one.scene.address(one.site, state)
    ends = [site.tunnel for site in one.scene.sites if site.tunnel] or [(one.site.node, 4789)]
    for address, port in ends if one.scene.mode is Mode.CLUSTER or state is not State.OWN else []:
        inner = one.send(one.gateway_mac, _say(one.ip, one.far, mark()))
        yield row, one.send(one.gateway_mac, _datagram(sender, address, port, make_vxlan(one.scene.vni, inner)))


def make_vxlan(vni: int, inner: bytes) -> bytes:
    """Return a frame as it is in the tunnel (RFC 7348)."""
    return struct.pack("!II", 8 << 24, vni << 8) + inner


def _sample(number: int) -> bytes:
    """Bytes without a pattern, the same in every run."""
    return hashlib.sha256(bytes((number,))).digest()


def _ipv6(one: _Attacker, mark: _Mark) -> Iterator[_Shot]:
    own, places = "fe80::77", [_ALL_NODES, BROADCAST, *(to for to, _ in one.places)]
    for name, kinds in _ICMP6.items():
        for kind in kinds:
            for to in places:
                packet = frames.make_icmp6(own, "ff02::1", kind, bytes(4) + mark())
                yield Row("S4", f"IPv6: {name}"), one.send(to, packet, IPV6)
    for to in places:
        data = struct.pack("!HHHH", 546, 547, 16, 0) + mark()
        yield Row("S4", "IPv6: DHCPv6"), one.send(to, frames.make_ipv6(own, "ff02::1:2", 17, data), IPV6)


def _dhcp(one: _Attacker, mark: _Mark) -> Iterator[_Shot]:
    row = Row("S5", "DHCP, as client and as server")
    for sender, ports in (("0.0.0.0", (68, 67)), (one.ip, (68, 67)), (one.ip, (67, 68))):
        for to in (BROADCAST, *(to for to, _ in one.places)):
            yield row, one.send(to, frames.make_udp(sender, "255.255.255.255", ports, mark()))
    for to, ip in one.places:
        yield row, one.send(to, frames.make_udp(one.ip, ip, (67, 68), mark()))


def _tagged(one: _Attacker, mark: _Mark) -> Iterator[_Shot]:
    if not one.neighbour:
        return
    to_mac, to_ip = one.neighbour
    lie = one.scene.address(one.site, State.NEXT)
    tags = (((VLAN, 100),), ((VLAN, 0xA000),), ((QINQ, 100),), ((VLAN, 1), (VLAN, 100)), ((QINQ, 1), (VLAN, 100)))
    for tag in tags:
        row = Row("S5", "VLAN tags" if len(tag) == 1 else "two VLAN tags, QinQ")
        for to in (to_mac, BROADCAST):
            for sender in (one.ip, lie):
                yield row, make_frame(to, one.mac, IP, _say(sender, to_ip, mark()), tag)
            packet = make_arp(1, (one.mac, one.ip), (_NO_MAC, to_ip)) + mark()
            yield row, make_frame(to, one.mac, ARP, packet, tag)
            six = frames.make_ipv6("fe80::77", "ff02::1", 59, mark())
            yield row, make_frame(to, one.mac, IPV6, six, tag)


def _types(one: _Attacker, mark: _Mark) -> Iterator[_Shot]:
    to, row = one.neighbour[0] if one.neighbour else one.gateway_mac, Row("S5", "other EtherTypes, known and sampled")
    sample = {
        0x600 + int.from_bytes(_sample(number)[:2], "big") % 0xFA00 for number in range(4 if one.scene.short else 40)
    }
    for kind in sorted({*_TYPES, *sample} - {IP, ARP, VLAN, QINQ, IPV6}):
        yield row, one.send(to, mark() + bytes(40), kind)
    row = Row("S5", "what switches say: STP, PVST, LLDP, EAPOL, LACP")
    for where in (to, BROADCAST):
        for head in (b"\x42\x42\x03\0\0\0", b"\xaa\xaa\x03\0\0\x0c\x01\x0b"):
            yield row, frames.make_llc(where, one.mac, head + mark() + bytes(30))
        for kind in (0x88CC, 0x888E, 0x8809):
            yield row, one.send(where, mark() + bytes(40), kind)
    yield row, one.send("01:80:c2:00:00:0e", mark() + bytes(40), 0x88CC)


_Other = tuple[Row, Way, int, bytes, str, int]


def _others(scene: Scene, site: Site, mark: _Mark) -> Iterator[_Other]:
    """What is not a frame of a guest."""
    first, gateway = site.guests[0][0], str(site.guests[0][1].gateway)
    for id_, _ in site.guests[:_MOST_GUESTS]:
        for _, other in scene.guests[:_MOST_GUESTS]:
            itself = Row("L1", "ping from every guest to every guest", control=Control.ITSELF)
            yield itself, Way.PING, id_, b"", str(other.ip), 0
            itself = Row("L2", "TCP from every guest to every guest (ssh)", control=Control.ITSELF)
            yield itself, Way.DOOR, id_, b"", str(other.ip), 22
    yield Row("L1", "ping from a guest to its gateway", control=Control.ITSELF), Way.PING, first, b"", gateway, 0
    for number, _ in site.guests[1:_MOST_GUESTS]:
        row = Row("S3", "the gateway in the neighbour's table of addresses")
        yield row, Way.TABLE, number, b"", gateway, 0
    if site.word.service:
        row = Row("S8", "TCP to a service of the host, at the gateway")
        yield row, Way.DOOR, first, b"", gateway, site.word.service
    if scene.mode is Mode.CLUSTER:
        row = Row("S6", "TCP to open services of nodes and infrastructure", control=Control.NODE)
        doors = [
            (address, there.word.tcp)
            for there in scene.sites[:_ATTACKING_HOSTS]
            for address in there.word.addresses[:2]
        ]
        for address, port in dict.fromkeys([*doors, *site.word.infrastructure]):
            yield row, Way.DOOR, first, b"", address, port
            yield row, Way.NODE_DOOR, site.host.number, b"", address, port
    if scene.network is not NetworkKind.SITE or scene.by_prolog:
        row = Row("S7", "TCP and UDP from a node's process to guests", control=Control.GUEST)
        for _, other in scene.guests[:_MOST_GUESTS]:
            yield row, Way.NODE_DOOR, site.host.number, b"", str(other.ip), 22
            yield row, Way.NODE_DATAGRAM, site.host.number, mark(), str(other.ip), 7000
    following = scene.following(site)
    if following and following.tunnel and scene.tunnel_kind is TunnelKind.VXLAN:
        victim, mine = following.guests[0][1], site.guests[0][1]
        ends = make_mac(victim.gateway, kind=1), make_mac(mine.gateway, kind=1)
        forged = ((_FORGED, Way.NODE_DATAGRAM), (_STRANGE, Way.STRANGE_DATAGRAM))
        for row, way in forged if scene.second_user else forged[:1]:
            inner = make_frame(*ends, IP, _say(str(mine.ip), str(victim.ip), mark()))
            yield row, way, site.host.number, make_vxlan(scene.vni, inner), *following.tunnel
