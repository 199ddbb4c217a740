# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames, made by hand, so that any of their fields can be a lie."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

BROADCAST = "ff:ff:ff:ff:ff:ff"
IP, ARP, RARP, VLAN, IPV6, QINQ = 0x0800, 0x0806, 0x8035, 0x8100, 0x86DD, 0x88A8
LLDP, EAPOL = 0x88CC, 0x888E
ICMP, TCP, UDP = 1, 6, 17
SYN, RST, ACK = 0x02, 0x04, 0x10


def make_frame(to: str, sender: str, kind: int, payload: bytes, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An Ethernet frame; `tags` are (type, VLAN number), the outermost first."""
    tagging = b"".join(struct.pack("!HH", tag, number) for tag, number in tags)
    return _mac(to) + _mac(sender) + tagging + struct.pack("!H", kind) + payload


def make_llc(to: str, sender: str, payload: bytes) -> bytes:
    """An IEEE 802.3 frame, which has a length where others have a type."""
    return make_frame(to, sender, len(payload), payload)


def make_arp(
    operation: int,
    sender: tuple[str, str],
    target: tuple[str, str],
    header: tuple[int, int, int, int] = (1, IP, 6, 4),
) -> bytes:
    """ARP: sender and target as (MAC, IP); header as hardware and protocol type and the lengths of their addresses."""
    (sender_mac, sender_ip), (target_mac, target_ip) = sender, target
    body = _mac(sender_mac) + IPv4Address(sender_ip).packed + _mac(target_mac) + IPv4Address(target_ip).packed
    return struct.pack("!HHBBH", *header, operation) + body


def make_ip(sender: str, to: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    """An IPv4 packet; `fragment` is the field of flags and offset."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0x1234, fragment, 64, protocol, 0)
    head += IPv4Address(sender).packed + IPv4Address(to).packed
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + payload


def make_udp(sender: str, to: str, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram in IPv4, without the checksum that UDP does not need."""
    return make_ip(sender, to, UDP, struct.pack("!HHHH", *ports, 8 + len(data), 0) + data)


def make_tcp(sender: str, to: str, ports: tuple[int, int], flags: int, data: bytes) -> bytes:
    """A TCP segment in IPv4."""
    segment = struct.pack("!HHIIBBHHH", *ports, 1, 1, 0x50, flags, 1000, 0, 0) + data
    pseudo = IPv4Address(sender).packed + IPv4Address(to).packed + struct.pack("!HH", TCP, len(segment))
    return make_ip(sender, to, TCP, segment[:16] + struct.pack("!H", _checksum(pseudo + segment)) + segment[18:])


def make_icmp(sender: str, to: str, kind: int, data: bytes) -> bytes:
    """An ICMP message in IPv4: 8 is an echo request, 13 asks for the time."""
    message = struct.pack("!BBH", kind, 0, 0) + data[-2:] + b"\0\1" + data  # data also tells echoes apart
    return make_ip(sender, to, ICMP, message[:2] + struct.pack("!H", _checksum(message)) + message[4:])


def make_ipv6(sender: str, to: str, following: int, payload: bytes) -> bytes:
    """An IPv6 packet with one header behind it."""
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, 255)
    return head + IPv6Address(sender).packed + IPv6Address(to).packed + payload


def make_icmp6(sender: str, to: str, kind: int, data: bytes) -> bytes:
    """An ICMPv6 message: 134 is a router's advertisement, 135 and 136 are neighbours'."""
    body = struct.pack("!BBH", kind, 0, 0) + data
    pseudo = IPv6Address(sender).packed + IPv6Address(to).packed + struct.pack("!II", len(body), 58)
    return make_ipv6(sender, to, 58, body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:])


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _checksum(data: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
