# SPDX-License-Identifier: Apache-2.0
"""What a cluster's or a workstation's network must not carry: frames, by name.

Guest 1 is the one that sends; the others, the host and whoever is beyond it are to be kept from its lies.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator

from shots import (
    FAR,
    GATEWAY,
    GATEWAY_MAC,
    MINE,
    NO_MAC,
    ONE,
    OUTSIDE,
    OWN_OUTSIDE,
    SECOND,
    THIRD,
    THREE,
    TWO,
    arp_from,
    arriving,
    from_one,
    make_shot,
    mark,
    say,
)
from wire import Shot

from chslurm.frames import (
    ARP,
    BROADCAST,
    EAPOL,
    IP,
    IPV6,
    LLDP,
    QINQ,
    RARP,
    SYN,
    VLAN,
    make_arp,
    make_frame,
    make_icmp,
    make_icmp6,
    make_ip,
    make_ipv6,
    make_llc,
    make_tcp,
    make_udp,
)
from chslurm.plan import Mode

STRANGER_MAC, NOBODY_MAC = "02:77:00:00:00:01", "02:77:00:00:00:02"
NODE = "10.99.0.1"
LIES = (
    *(THIRD, GATEWAY, FAR, NODE, "172.22.1.77", "172.22.1.255"),
    *("0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"),
)


def make_forbidden(mode: Mode) -> list[Shot]:
    """What must arrive nowhere."""
    beyond = _false_from_outside() if mode is Mode.WORKSTATION else _false_from_far()
    return [
        *_spoofed(),
        *_astray(mode),
        *_false_arp(),
        *_types(),
        *_tagged(),
        *_ipv6(),
        *_control(),
        *_from_node(),
        *beyond,
    ]


def make_random(count: int) -> Iterator[Shot]:
    """As many frames with a random MAC, and with a random address, as their senders."""
    chance = random.Random(2)
    for number in range(count):
        mac = ":".join(f"{byte:02x}" for byte in chance.randbytes(6))
        yield make_shot(f"{number} from {mac}", make_frame(TWO.mac, mac, IP, say(MINE, SECOND)))
        ip = ".".join(map(str, chance.randbytes(4)))
        yield make_shot(f"{number} from {ip}", from_one(chance.choice((TWO.mac, GATEWAY_MAC)), say(ip, SECOND)))


def _spoofed() -> Iterator[Shot]:
    """False senders of IP: S1, S2."""
    for whose, mac in (("nobody's", STRANGER_MAC), ("a guest's", THREE.mac), ("the gateway's", GATEWAY_MAC)):
        for to, ip in ((TWO.mac, SECOND), (GATEWAY_MAC, FAR)):
            yield make_shot(f"{whose} MAC to {ip}", make_frame(to, mac, IP, say(MINE, ip)))
    for lie in LIES:
        for to, ip in ((TWO.mac, SECOND), (GATEWAY_MAC, GATEWAY), (GATEWAY_MAC, FAR)):
            yield make_shot(f"from {lie} to {ip}", from_one(to, say(lie, ip)))
        ping = from_one(GATEWAY_MAC, make_icmp(lie, GATEWAY, 8, mark()))
        yield make_shot(f"ping from {lie} to the gateway", ping)
    for whose, mac, ip in (("guest 3", THREE.mac, THIRD), ("the gateway", GATEWAY_MAC, GATEWAY)):
        whole = make_frame(TWO.mac, mac, IP, say(ip, SECOND))
        yield make_shot(f"as {whose} to guest 2", whole)


def _astray(mode: Mode) -> Iterator[Shot]:
    """Places that guests have no business with: S6, S8."""
    for mac in (TWO.mac, BROADCAST, NOBODY_MAC, "01:00:5e:00:00:fb"):
        for ip in (THIRD, GATEWAY, NODE, FAR, "255.255.255.255", "172.22.1.255", "224.0.0.251"):
            yield make_shot(f"to {ip} by way of {mac}", from_one(mac, say(MINE, ip)))
    places = [SECOND, "172.22.255.2", "169.254.169.254", "127.0.0.1", "224.0.0.251", "255.255.255.255", "0.0.0.0"]
    places += [] if mode is Mode.WORKSTATION else [NODE, OUTSIDE, "172.22.3.1", "172.22.3.254", "8.8.8.8"]
    for ip in places:
        yield make_shot(f"to {ip} through the gateway", from_one(GATEWAY_MAC, say(MINE, ip)))
    ports = (111, 7000) if mode is Mode.WORKSTATION else (22, 53, 111, 7000)
    for port in ports:
        frame = from_one(GATEWAY_MAC, make_tcp(MINE, GATEWAY, (4001, port), SYN, mark()))
        yield make_shot(f"TCP to the gateway's port {port}", frame)
    for port in (67, 111, 4789, 7000, 40000):
        frame = from_one(GATEWAY_MAC, make_udp(MINE, GATEWAY, (4002, port), mark()))
        yield make_shot(f"UDP to the gateway's port {port}", frame)
    for protocol in (2, 4, 47, 132):
        frame = from_one(GATEWAY_MAC, make_ip(MINE, GATEWAY, protocol, mark()))
        yield make_shot(f"IP protocol {protocol} to the gateway", frame)
    for kind in (5, 13):
        yield make_shot(f"ICMP {kind} to the gateway", from_one(GATEWAY_MAC, make_icmp(MINE, GATEWAY, kind, mark())))


def _false_arp() -> Iterator[Shot]:
    """S3: whoever speaks as another, or of what is not here."""
    one, two = (ONE.mac, MINE), (TWO.mac, SECOND)
    for what, sender in (
        ("the gateway's IP", (ONE.mac, GATEWAY)),
        ("a guest's IP", (ONE.mac, THIRD)),
        ("no IP", (ONE.mac, "0.0.0.0")),
        ("a guest's MAC", (THREE.mac, MINE)),
        ("nobody's MAC", (STRANGER_MAC, MINE)),
        ("guest 3's both", (THREE.mac, THIRD)),
    ):
        yield make_shot(f"ARP asks all with {what}", arp_from(BROADCAST, 1, sender, (NO_MAC, SECOND)))
        yield make_shot(f"ARP asks with {what}", arp_from(TWO.mac, 1, sender, two))
        yield make_shot(f"ARP answers with {what}", arp_from(TWO.mac, 2, sender, two))
        yield make_shot(f"ARP answers all with {what}", arp_from(BROADCAST, 2, sender, (BROADCAST, sender[1])))
        yield make_shot(f"ARP tells the gateway {what}", arp_from(GATEWAY_MAC, 2, sender, (GATEWAY_MAC, GATEWAY)))
    yield make_shot("ARP in a false frame", arp_from(TWO.mac, 1, one, two, ether=STRANGER_MAC))
    for place in (FAR, NODE, "172.22.255.2", "172.22.1.77", "0.0.0.0", "224.0.0.1", "172.22.1.255"):
        yield make_shot(f"ARP asks for {place}", arp_from(BROADCAST, 1, one, (NO_MAC, place)))
        yield make_shot(f"ARP asks guest 2 for {place}", arp_from(TWO.mac, 1, one, (NO_MAC, place)))
    yield make_shot("ARP answers all as itself", arp_from(BROADCAST, 2, one, one))
    for number in (0, 3, 8, 0xFFFF):
        yield make_shot(f"ARP operation {number}", arp_from(TWO.mac, number, one, two))
        yield make_shot(f"ARP operation {number} to all", arp_from(BROADCAST, number, one, (NO_MAC, SECOND)))
    for header in ((6, IP, 6, 4), (1, IPV6, 6, 4), (1, IP, 8, 4), (1, IP, 6, 16)):
        yield make_shot(f"ARP of {header}", arp_from(TWO.mac, 1, one, two, header))


def _types() -> Iterator[Shot]:
    """S5: every other EtherType, known ones and a sample of all; and what has none."""
    known = [RARP, 0x9100, 0x8847, 0x8848, 0x8863, 0x8864, LLDP, EAPOL, 0x8809, 0x88F7, 0x88E5, 0x22F0, 0x893A, 0x88A2]
    sample = random.Random(1).sample(sorted({*range(0x10000)} - {IP, ARP, VLAN, QINQ}), 100)
    for kind in sorted({*known, 0, 0x26, 0x600, 0x7FF, 0x801, 0x805, 0x807, 0xFFFF, *sample}):
        yield make_shot(f"EtherType {kind:#06x}", from_one(TWO.mac, mark() + bytes(40), kind))
    for kind in known:
        yield make_shot(f"EtherType {kind:#06x} to all", from_one(BROADCAST, mark() + bytes(40), kind))
        yield make_shot(f"EtherType {kind:#06x} to the gateway", from_one(GATEWAY_MAC, mark() + bytes(40), kind))
    yield make_shot("IP that ends in its header", from_one(TWO.mac, mark()))
    yield make_shot("ARP that ends in its header", from_one(TWO.mac, mark(), ARP))


def _tagged() -> Iterator[Shot]:
    """VLAN and QinQ around what would pass, and around lies."""
    tags: dict[str, tuple[tuple[int, int], ...]] = {
        "a tag": ((VLAN, 100),),
        "a tag of priority only": ((VLAN, 0xA000),),
        "a service tag": ((QINQ, 100),),
        "two tags": ((VLAN, 1), (VLAN, 100)),
        "QinQ": ((QINQ, 1), (VLAN, 100)),
        "three tags": ((QINQ, 0), (VLAN, 0), (VLAN, 0)),
    }
    for (how, tag), to in itertools.product(tags.items(), (TWO.mac, BROADCAST)):
        for what, kind, packet in (
            ("what is right", IP, say(MINE, SECOND)),
            ("a false IP", IP, say(THIRD, SECOND)),
            ("ARP", ARP, make_arp(1, (ONE.mac, MINE), (TWO.mac, SECOND)) + mark()),
            ("IPv6", IPV6, make_ipv6("fe80::1", "ff02::1", 59, mark())),
        ):
            yield make_shot(f"{how} around {what} to {to}", make_frame(to, ONE.mac, kind, packet, tag))
    ping = make_frame(GATEWAY_MAC, ONE.mac, IP, make_icmp(MINE, GATEWAY, 8, mark()), ((VLAN, 0),))
    yield make_shot("ping to the gateway in a tag of priority", ping)


def _ipv6() -> Iterator[Shot]:
    """S4: from where nothing of ours has an address."""
    own, all_nodes = "fe80::ff:fe16:101", "33:33:00:00:00:01"
    for to in (all_nodes, TWO.mac, GATEWAY_MAC, BROADCAST):
        for what, kind in (
            ("ping", 128),
            ("router's advertisement", 134),
            ("solicitation", 135),
            ("advertisement", 136),
        ):
            packet = make_icmp6(own, "ff02::1", kind, bytes(4) + mark())
            yield make_shot(f"IPv6 {what} to {to}", from_one(to, packet, IPV6))
        dhcp = make_ipv6(own, "ff02::1:2", 17, struct.pack("!HHHH", 546, 547, 16, 0) + mark())
        yield make_shot(f"DHCPv6 to {to}", from_one(to, dhcp, IPV6))


def _control() -> Iterator[Shot]:
    """DHCP, and what switches say to each other."""
    for to in (BROADCAST, GATEWAY_MAC):
        discover = make_udp("0.0.0.0", "255.255.255.255", (68, 67), mark())
        yield make_shot(f"DHCP discover to {to}", from_one(to, discover))
    yield make_shot("DHCP offer to all", from_one(BROADCAST, make_udp(MINE, "255.255.255.255", (67, 68), mark())))
    for ports in ((67, 68), (68, 67)):
        frame = from_one(TWO.mac, make_udp(MINE, SECOND, ports, mark()))
        yield make_shot(f"DHCP to a guest's port {ports[1]}", frame)
    for name, to, payload in (
        ("STP", "01:80:c2:00:00:00", b"\x42\x42\x03\x00\x00\x00"),
        ("PVST", "01:00:0c:cc:cc:cd", b"\xaa\xaa\x03\x00\x00\x0c\x01\x0b"),
        ("CDP", "01:00:0c:cc:cc:cc", b"\xaa\xaa\x03\x00\x00\x0c\x20\x00"),
        ("GARP", "01:80:c2:00:00:21", b"\x42\x42\x03\x00\x01"),
    ):
        yield make_shot(name, make_llc(to, ONE.mac, payload + mark() + bytes(30)))
    for name, to, kind in (
        ("LLDP", "01:80:c2:00:00:0e", LLDP),
        ("EAPOL", "01:80:c2:00:00:03", EAPOL),
        ("LACP", "01:80:c2:00:00:02", 0x8809),
    ):
        yield make_shot(name, from_one(to, mark() + bytes(40), kind))


def _from_node() -> Iterator[Shot]:
    """S7: what some process in the host's namespace sends to guests."""
    for name, frame in {
        "to all": make_frame(BROADCAST, GATEWAY_MAC, IP, say(GATEWAY, "255.255.255.255")),
        "from nobody's MAC": make_frame(TWO.mac, STRANGER_MAC, IP, say(GATEWAY, SECOND)),
        "as guest 3's IP": make_frame(TWO.mac, GATEWAY_MAC, IP, say(THIRD, SECOND)),
        "from 127.0.0.1": make_frame(TWO.mac, GATEWAY_MAC, IP, say("127.0.0.1", SECOND)),
        "by IPv6": make_frame(TWO.mac, GATEWAY_MAC, IPV6, make_ipv6("fe80::1", "ff02::1", 59, mark())),
        "in a tag": make_frame(TWO.mac, GATEWAY_MAC, IP, say(GATEWAY, SECOND), ((VLAN, 7),)),
        "by DHCP": make_frame(TWO.mac, GATEWAY_MAC, IP, make_udp(GATEWAY, SECOND, (67, 68), mark())),
    }.items():
        yield make_shot(f"the node {name}", frame, source="bridge")


def _false_from_far() -> Iterator[Shot]:
    """From other hosts' guests come packets of theirs, for guests here; the gateway is pinged."""
    for lie in (THIRD, "172.22.1.77", "172.22.3.1", NODE, OUTSIDE, "127.0.0.1"):
        yield make_shot(f"another host as {lie}", arriving(say(lie, SECOND)), source="beyond")
        ping = arriving(make_icmp(lie, GATEWAY, 8, mark()))
        yield make_shot(f"another host's ping as {lie}", ping, source="beyond")
    for port in (22, 53, 7000):
        tcp = arriving(make_tcp(FAR, GATEWAY, (4001, port), SYN, mark()))
        yield make_shot(f"another host's TCP to the gateway's port {port}", tcp, source="beyond")
        udp = arriving(make_udp(FAR, GATEWAY, (4001, port), mark()))
        yield make_shot(f"another host's UDP to the gateway's port {port}", udp, source="beyond")
    dhcp = arriving(make_udp(FAR, SECOND, (67, 68), mark()))
    yield make_shot("another host's DHCP", dhcp, source="beyond")


def _false_from_outside() -> Iterator[Shot]:
    """Nobody outside begins."""
    for sender in (OUTSIDE, NODE, THIRD, GATEWAY):
        yield make_shot(f"from {sender} outside to a guest", arriving(say(sender, SECOND)), source="beyond")
    tcp = arriving(make_tcp(OUTSIDE, OWN_OUTSIDE, (4001, 22), SYN, mark()))
    yield make_shot("TCP from the outside to the host", tcp, source="beyond")
    to_gateway = arriving(make_udp(OUTSIDE, GATEWAY, (4001, 53), mark()))
    yield make_shot("from the outside to the gateway", to_gateway, source="beyond")
