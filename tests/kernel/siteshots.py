# SPDX-License-Identifier: Apache-2.0
"""What a network that root makes on a host must carry and must not, beyond what holds for any workstation's guests."""

from __future__ import annotations

from collections.abc import Iterator

from forbidden import NODE, make_forbidden
from shots import GATEWAY, GATEWAY_MAC, MINE, OUTSIDE, SECOND, arriving, from_one, make_rightful, make_shot, mark, say
from wire import Shot

from chslurm.frames import BROADCAST, IP, RST, SYN, make_frame, make_icmp, make_tcp, make_udp
from chslurm.plan import Mode

INNER, INNER_MAC = "10.77.0.2", "02:03:00:00:00:02"  # a machine behind this one, in another network
HOST_INNER, HOST_INNER_MAC = "10.77.0.1", "02:03:00:00:00:01"
_EXPERIMENT = 0x88B5  # an EtherType for whoever wants it

_HOSTS_OWN = "TCP from the outside to the host"
"""What is forbidden to others, and here none of our business."""


def make_site_rightful() -> list[Shot]:
    """What must arrive, exactly where it says."""
    return [*make_rightful(Mode.WORKSTATION), *_owner(), *_others()]


def make_site_forbidden() -> list[Shot]:
    """What must arrive nowhere, or nowhere else: the host's own end of the bridge sees what is to be routed."""
    frames = (shot for shot in make_forbidden(Mode.WORKSTATION) if shot.name != _HOSTS_OWN)
    return [*frames, *_to_host(), *_unhidden(), *_from_others()]


def _owner() -> Iterator[Shot]:
    yield make_shot("the owner to a guest", mark(), "guest2", source="owner")


def _others() -> Iterator[Shot]:
    """Other people's networks are none of our business."""
    frame = make_frame(BROADCAST, "02:33:00:00:00:01", _EXPERIMENT, mark())
    yield make_shot("in another bridge", frame, "foreign2", "foreign", source="foreign1")
    frame = make_frame(BROADCAST, "02:33:00:00:00:02", _EXPERIMENT, mark())
    yield make_shot("out of another bridge", frame, "foreign1", "foreign2", source="foreign")
    yield make_shot("an inner machine asks", _inner(make_udp(INNER, OUTSIDE, (5001, 7000), mark())), "beyond",
                    source="inner")  # fmt: skip
    yield make_shot("the outside answers it", arriving(make_udp(OUTSIDE, INNER, (7000, 5001), mark())), "inner",
                    source="beyond")  # fmt: skip


def _to_host() -> Iterator[Shot]:
    """Guests reach nothing of the host: S8, and no network behind it: S6."""
    for place in (NODE, HOST_INNER, INNER):
        for what, packet in (
            ("UDP", say(MINE, place)),
            ("TCP", make_tcp(MINE, place, (4003, 22), SYN, mark())),
            ("ping", make_icmp(MINE, place, 8, mark())),
        ):
            yield make_shot(f"{what} to {place} of the host", from_one(GATEWAY_MAC, packet), "bridge")
    for port in (17001, 17002, 17301, 17302):
        tcp = make_tcp(MINE, GATEWAY, (4004, port), SYN, mark())
        yield make_shot(f"TCP to a relay's port {port}", from_one(GATEWAY_MAC, tcp), "bridge")
        udp = make_udp(MINE, GATEWAY, (4005, port), mark())
        yield make_shot(f"UDP to a relay's port {port}", from_one(GATEWAY_MAC, udp), "bridge")


def _unhidden() -> Iterator[Shot]:
    """What belongs to no connection is not hidden by NAT."""
    reset = make_tcp(MINE, OUTSIDE, (4006, 80), RST, mark())
    yield make_shot("a reset of nothing to the outside", from_one(GATEWAY_MAC, reset), "bridge")


def _from_others() -> Iterator[Shot]:
    """Nobody else reaches guests, or relays; nor, through this host, other networks: S7."""
    yield make_shot("a stranger's datagram to a guest", mark(), "node", source="stranger")  # which refuses it
    for what, packet in (
        ("UDP to an inner machine", say(OUTSIDE, INNER)),
        ("TCP to an inner machine", make_tcp(OUTSIDE, INNER, (4007, 22), SYN, mark())),
        ("UDP to a relay", make_udp(OUTSIDE, GATEWAY, (4008, 17001), mark())),
        ("TCP to a relay", make_tcp(OUTSIDE, GATEWAY, (4008, 17301), SYN, mark())),
        ("ping to the gateway", make_icmp(OUTSIDE, GATEWAY, 8, mark())),
    ):
        yield make_shot(f"the outside's {what}", arriving(packet), source="beyond")
    for what, packet in (
        ("UDP to a guest", say(INNER, SECOND)),
        ("TCP to a guest", make_tcp(INNER, SECOND, (4009, 22), SYN, mark())),
        ("TCP to a relay", make_tcp(INNER, GATEWAY, (4009, 17302), SYN, mark())),
    ):
        yield make_shot(f"an inner machine's {what}", _inner(packet), source="inner")


def _inner(packet: bytes) -> bytes:
    return make_frame(HOST_INNER_MAC, INNER_MAC, IP, packet)
