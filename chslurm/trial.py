# SPDX-License-Identifier: Apache-2.0
"""What a check of the network says to guests and hosts, and what they say back: typed, bounded.

    head  -> guest   GuestOrders   `meta/test/orders.json`, read-only for guests
    guest -> head    GuestReport   `meta/sync/check.N.TURN`; written by root of a guest, so hostile
    head  -> host    HostOrders    `run/trial.json`, its digest by an order
    host  -> head    HostWord      an event

Each turn has a number. Whoever has done its part of it says so with what it has seen up to then. A frame is known by
its mark: four bytes of the cluster's, the number of the pass, and that of the probe.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from chslurm.filters import Family

REPORT_MAX_BYTES = 64 << 10
MAX_PROBES = 1024
MAX_PASSES = 16
SNIFFED, HEARD = "bridge", "listener"
"""How a host sees: what reaches its bridge from guests, and what reaches sockets of a process on the node."""

Door = tuple[str, int]
"""Address and TCP port."""


class GuestPart(msgspec.Struct, frozen=True):
    """What one guest does in a turn, and that as root."""

    frames: tuple[str, ...] = ()  # hexadecimal; sent as they are
    doors: tuple[Door, ...] = ()
    pings: tuple[str, ...] = ()
    patience_s: float = 3.0  # how long doors and pings have to answer


class GuestOrders(msgspec.Struct, frozen=True):
    """One turn of all guests. `guests` by number, as text; who is not in it only reports."""

    turn: int
    mark: str  # the cluster's four bytes, hexadecimal
    guests: dict[str, GuestPart] = {}
    end: bool = False


class GuestReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a guest says of a turn. Doors and pings by their place in the orders; `seen` are pass and probe."""

    turn: int
    sent: int
    doors: tuple[int, ...]
    pings: tuple[int, ...]
    seen: tuple[tuple[int, int], ...]
    neighbours: dict[str, str]  # IPv4 address to MAC


class HostPart(msgspec.Struct, frozen=True):
    """What the process on one node does in a turn."""

    datagrams: tuple[tuple[str, int, str], ...] = ()  # address, UDP port, hexadecimal payload
    doors: tuple[Door, ...] = ()
    strange: tuple[tuple[str, int, str], ...] = ()  # datagrams that a second user sends


class HostOrders(msgspec.Struct, frozen=True):
    """One turn of all hosts, by number as text. Families of filters that are named in `without` are taken away."""

    turn: int
    number: int  # of the pass
    without: tuple[Family, ...] = ()
    hosts: dict[str, HostPart] = {}
    second_user: str = ""


class HostWord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a host says of a turn; of turn 0, where it can be reached. Sets of numbers are bits of hexadecimal ones."""

    turn: int
    addresses: tuple[str, ...] = ()
    tcp: int = 0  # its port, at all addresses
    udp: int = 0
    service: int = 0  # a TCP port of the gateway, in the guests' network
    infrastructure: tuple[Door, ...] = ()  # that are open to this node
    opened: str = "0"
    seen: dict[str, str] = {}  # SNIFFED and HEARD: probes of the latest pass
    vxlan: tuple[int, int] = (0, 0)  # of turn 0: UDP port and number of the VXLAN that root has made for the job
    carried: int | None = None  # frames that the bridge has ever passed to the gateway; None: it can be watched
    obstacle: str = ""  # why nothing was sent as the second user


def make_mark(cluster_id: str, turn_pass: int, probe: int) -> bytes:
    """Return the eight bytes by which a frame is known."""
    return bytes.fromhex(cluster_id[:8]) + bytes((0xC5, turn_pass)) + probe.to_bytes(2, "big")


def find_mark(data: bytes, mark: bytes) -> tuple[int, int] | None:
    """Return pass and probe of a frame with this cluster's four bytes in it."""
    start = data.find(mark + b"\xc5")
    found = data[start + 5 : start + 8] if start >= 0 else b""
    return (found[0], int.from_bytes(found[1:], "big")) if len(found) == 3 else None


def pack(numbers: Iterable[int]) -> str:
    """Return a set of numbers as a hexadecimal one."""
    return f"{sum(1 << number for number in set(numbers)):x}"


def unpack(text: str) -> frozenset[int]:
    """Return the set that `pack` has packed; empty for what is none."""
    try:
        bits = int(text[: MAX_PROBES // 4 + 1], 16)
    except ValueError:
        return frozenset()
    return frozenset(number for number in range(MAX_PROBES) if bits >> number & 1)


def parse_report(text: bytes, turn: int) -> GuestReport | None:
    """Return what a guest says of this turn, or None: it is hostile."""
    if len(text) > REPORT_MAX_BYTES:
        return None
    try:
        report = msgspec.json.decode(text, type=GuestReport)
    except (msgspec.MsgspecError, RecursionError):
        return None
    in_range = all(0 <= number < MAX_PASSES and 0 <= probe < MAX_PROBES for number, probe in report.seen)
    counted = all(0 <= place < MAX_PROBES for place in (*report.doors, *report.pings, report.sent))
    return report if report.turn == turn and in_range and counted and len(report.neighbours) <= MAX_PROBES else None


def parse_word(text: str) -> HostWord | None:
    """Return what a host says, or None."""
    try:
        return msgspec.json.decode(text, type=HostWord)
    except msgspec.MsgspecError:
        return None
