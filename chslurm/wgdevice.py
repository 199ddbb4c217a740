# SPDX-License-Identifier: Apache-2.0
"""A WireGuard device as text, each line arguments of `wg set` (wg(8)), and the same in the words of the kernel.

The host's private key stands in no text, which may be printed and logged: PRIVATE_KEY does. Numbers are those of
linux/wireguard.h.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from chslurm.errors import ChslurmError

FAMILY = "wireguard"
"""Name of the kernel's generic netlink family, and of its kind of link."""

FAMILY_VERSION = 1
SET_DEVICE = 1
"""Command of the family."""

KEY_BYTES = 32
PRIVATE_KEY = "@private"
"""Stands in a text for the private key of the host."""

_PEERS_PER_MESSAGE = 256  # an attribute has at most 64 KiB
_AF_INET = 2
_NESTED = 0x8000
_DEVICE_NAME, _DEVICE_PRIVATE_KEY, _DEVICE_LISTEN_PORT, _DEVICE_PEERS = 2, 3, 6, 8
_PEER_PUBLIC_KEY, _PEER_FLAGS, _PEER_ENDPOINT, _PEER_ALLOWED = 1, 3, 4, 9
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_BITS = 1, 2, 3
_REPLACE_ALLOWED = 2


@dataclass(frozen=True, slots=True)
class WireGuardPeer:
    """Another host, as WireGuard knows it."""

    public_key: str
    address: str
    udp_port: int
    allowed: tuple[IPv4Network, ...]


def render_device(device: str, udp_port: int, peers: Sequence[WireGuardPeer]) -> str:
    """Return the settings of a device, each line as arguments of `wg set`."""
    lines = [f"{device} listen-port {udp_port} private-key {PRIVATE_KEY}"]
    for peer in peers:
        end = f"{peer.address}:{peer.udp_port}"
        lines.append(f"{device} peer {peer.public_key} endpoint {end} allowed-ips {','.join(map(str, peer.allowed))}")
    return "".join(f"{line}\n" for line in lines)


def encode_device(text: str, private_key: bytes) -> Iterator[bytes]:
    """Return what `render_device` said as attributes of SET_DEVICE, a message at a time. Raises ChslurmError."""
    peers: list[bytes] = []
    name = b""
    for words in map(str.split, text.splitlines()):
        match words:
            case [device, "listen-port", port, "private-key", "@private"]:
                name = _attribute(_DEVICE_NAME, device.encode() + b"\0")
                key = _attribute(_DEVICE_PRIVATE_KEY, private_key)
                yield name + key + _attribute(_DEVICE_LISTEN_PORT, struct.pack("=H", int(port)))
            case [_, "peer", key_text, "endpoint", end, "allowed-ips", allowed]:
                peers.append(_encode_peer(_parse_peer(key_text, end, allowed)))
            case _:
                raise ChslurmError(f"can't set up WireGuard: {' '.join(words)!r} is no setting of a device")
    for first in range(0, len(peers), _PEERS_PER_MESSAGE):
        group = b"".join(peers[first : first + _PEERS_PER_MESSAGE])
        yield name + _attribute(_DEVICE_PEERS | _NESTED, group)


def _parse_peer(key: str, end: str, allowed: str) -> WireGuardPeer:
    address, _, port = end.partition(":")
    return WireGuardPeer(key, address, int(port), tuple(map(IPv4Network, allowed.split(","))))


def _encode_peer(peer: WireGuardPeer) -> bytes:
    end = struct.pack("=H", _AF_INET) + struct.pack("!H", peer.udp_port) + IPv4Address(peer.address).packed + bytes(8)
    return _attribute(
        _NESTED,
        _attribute(_PEER_PUBLIC_KEY, base64.b64decode(peer.public_key))
        + _attribute(_PEER_FLAGS, struct.pack("=I", _REPLACE_ALLOWED))
        + _attribute(_PEER_ENDPOINT, end)
        + _attribute(_PEER_ALLOWED | _NESTED, b"".join(map(_encode_allowed, peer.allowed))),
    )


def _encode_allowed(network: IPv4Network) -> bytes:
    return _attribute(
        _NESTED,
        _attribute(_ALLOWED_FAMILY, struct.pack("=H", _AF_INET))
        + _attribute(_ALLOWED_ADDRESS, network.network_address.packed)
        + _attribute(_ALLOWED_BITS, bytes([network.prefixlen])),
    )


def _attribute(kind: int, value: bytes) -> bytes:
    """One attribute of netlink: length and kind, the value, and zeros up to the next multiple of four."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
