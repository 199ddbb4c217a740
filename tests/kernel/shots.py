# SPDX-License-Identifier: Apache-2.0
"""What a cluster's or a workstation's network must carry: frames, by name, each with a mark in it."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

from wire import BEYOND_MAC, Shot

from chslurm.addresses import make_layout, make_mac
from chslurm.frames import (
    ACK,
    ARP,
    BROADCAST,
    IP,
    SYN,
    make_arp,
    make_frame,
    make_icmp,
    make_ip,
    make_tcp,
    make_udp,
)
from chslurm.plan import Mode

_LAYOUT = make_layout(2)
ONE, TWO, THREE, FOUR = (_LAYOUT.guest(1, slot) for slot in (1, 2, 3, 4))
GATEWAY = str(_LAYOUT.gateway(1))
GATEWAY_MAC = make_mac(_LAYOUT.gateway(1))
LINK_MAC = make_mac(_LAYOUT.gateway(1), kind=1)
NO_MAC = "00:00:00:00:00:00"
FAR, OUTSIDE, OWN_OUTSIDE = "172.22.2.1", "198.51.100.1", "172.22.255.100"

MINE, SECOND, THIRD = (str(guest.ip) for guest in (ONE, TWO, THREE))
_MARK = b"\xc5\x11\x5a\xfe"
_marks = itertools.count(1)


def make_shot(name: str, frame: bytes, *reaches: str, source: str = "guest1") -> Shot:
    """A shot of a frame with a mark in it."""
    start = frame.index(_MARK)
    return Shot(name, source, frame, frame[start : start + 8], frozenset(reaches))


def mark() -> bytes:
    """Return eight bytes that are in no other frame."""
    return _MARK + struct.pack("!I", next(_marks))


def say(sender: str, to: str) -> bytes:
    """A marked datagram."""
    return make_udp(sender, to, (4000, 7000), mark())


def from_one(to_mac: str, packet: bytes, kind: int = IP) -> bytes:
    """A frame with the true MAC of guest 1."""
    return make_frame(to_mac, ONE.mac, kind, packet)


def arp_from(
    to_mac: str,
    operation: int,
    sender: tuple[str, str],
    target: tuple[str, str],
    header: tuple[int, int, int, int] = (1, IP, 6, 4),
    ether: str = ONE.mac,
) -> bytes:
    """ARP with the mark in the padding."""
    return make_frame(to_mac, ether, ARP, make_arp(operation, sender, target, header) + mark())


def make_rightful(mode: Mode) -> list[Shot]:
    """What must arrive, exactly where it says."""
    return [*_rightful_here(), *(_rightful_outside() if mode is Mode.WORKSTATION else _rightful_far())]


def make_large(size_bytes: int) -> Shot:
    """A datagram from guest 1 to guest 2 that is right but for its size."""
    return make_shot("large", from_one(TWO.mac, make_udp(MINE, SECOND, (4000, 7000), mark() + bytes(size_bytes))))


def _rightful_here() -> Iterator[Shot]:
    one, two = (ONE.mac, MINE), (TWO.mac, SECOND)
    yield make_shot("ARP asks for a guest", arp_from(BROADCAST, 1, one, (NO_MAC, SECOND)), "guest2", "bridge")
    yield make_shot("ARP asks a guest it knows", arp_from(TWO.mac, 1, one, two), "guest2")
    yield make_shot("ARP answers a guest", arp_from(TWO.mac, 2, one, two), "guest2")
    yield make_shot("ARP asks for the gateway", arp_from(BROADCAST, 1, one, (NO_MAC, GATEWAY)), "bridge")
    yield make_shot("ARP answers the gateway", arp_from(GATEWAY_MAC, 2, one, (GATEWAY_MAC, GATEWAY)), "bridge")
    yield make_shot("UDP to a guest", from_one(TWO.mac, say(MINE, SECOND)), "guest2")
    yield make_shot("UDP to a guest of unknown port", from_one(FOUR.mac, say(MINE, str(FOUR.ip))), "guest4")
    yield make_shot("TCP to a guest", from_one(TWO.mac, make_tcp(MINE, SECOND, (4000, 22), SYN, mark())), "guest2")
    yield make_shot("ping to a guest", from_one(TWO.mac, make_icmp(MINE, SECOND, 8, mark())), "guest2")
    yield make_shot("later fragment", from_one(TWO.mac, make_ip(MINE, SECOND, 17, mark(), 0x0010)), "guest2")
    yield make_shot("SCTP to a guest", from_one(TWO.mac, make_ip(MINE, SECOND, 132, mark())), "guest2")
    ping = from_one(GATEWAY_MAC, make_icmp(MINE, GATEWAY, 8, mark()))
    yield make_shot("ping to the gateway", ping, "bridge", "node", "guest1")
    answer = from_one(GATEWAY_MAC, make_tcp(MINE, GATEWAY, (22, 40000), SYN | ACK, mark()))
    yield make_shot("TCP answer to the gateway", answer, "bridge")

    def node(to: str, kind: int, packet: bytes) -> bytes:
        return make_frame(to, GATEWAY_MAC, kind, packet)

    own = (GATEWAY_MAC, GATEWAY)
    asking = node(BROADCAST, ARP, make_arp(1, own, (NO_MAC, THIRD)) + mark())
    yield make_shot("the gateway's ARP asks for a guest", asking, "guest3", source="bridge")
    answering = node(TWO.mac, ARP, make_arp(2, own, two) + mark())
    yield make_shot("the gateway's ARP answers a guest", answering, "guest2", source="bridge")
    yield make_shot("the gateway to a guest", node(TWO.mac, IP, say(GATEWAY, SECOND)), "guest2", source="bridge")


def _rightful_far() -> Iterator[Shot]:
    yield make_shot("UDP to another host's guest", from_one(GATEWAY_MAC, say(MINE, FAR)), "bridge", "beyond")
    yield make_shot("UDP from another host's guest", arriving(say(FAR, SECOND)), "guest2", source="beyond")
    ping = arriving(make_icmp(FAR, GATEWAY, 8, mark()))
    yield make_shot("ping from another host's guest", ping, "node", "beyond", source="beyond")


def _rightful_outside() -> Iterator[Shot]:
    port = 10000 + next(_marks) % 50000  # a conversation that nobody tracks yet
    question = from_one(GATEWAY_MAC, make_udp(MINE, OUTSIDE, (port, 7000), mark()))
    yield make_shot("UDP to the outside", question, "bridge", "beyond")
    answer = arriving(make_udp(OUTSIDE, OWN_OUTSIDE, (7000, port), mark()))
    yield make_shot("the outside's answer", answer, "guest1", source="beyond")
    for port in (22, 53):
        asking = from_one(GATEWAY_MAC, make_tcp(MINE, GATEWAY, (4001, port), SYN, mark()))
        yield make_shot(f"TCP to the gateway's port {port}", asking, "bridge", "node")
    names = from_one(GATEWAY_MAC, make_udp(MINE, GATEWAY, (4002, 53), mark()))
    yield make_shot("UDP to the gateway's port 53", names, "bridge", "node", "guest1")


def arriving(packet: bytes) -> bytes:
    """A frame from whoever is beyond."""
    return make_frame(LINK_MAC, BEYOND_MAC, IP, packet)
