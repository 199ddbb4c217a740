# SPDX-License-Identifier: Apache-2.0
"""Host number and slot -> address, MAC and TAP of a guest; computed, never random, never from host names.

Hosts count from 1 in the order of the allocation, slots from 1 on each host. Every host has a /24 of 172.16.0.0/12:

    host 1..254       172.22.1.0/24 .. 172.22.254.0/24
    host 255..508     172.23.1.0/24 .. 172.23.254.0/24, and so on up to 172.31, then from 172.16 to 172.21

A host's third octet is never 0 or 255, so nothing of ours looks like a network or broadcast address, and
172.22.255.0/24 is left for the link to the outside. Guest j of a host is `.j` in its /24, the host itself is the
gateway `.254`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from chslurm.errors import UsageError

HOSTS_PER_BLOCK = 254
"""Hosts in one /16 (a block): third octets 1 to 254."""

BLOCKS = 16
FIRST_BLOCK = 22  # 172.22: where the first block lies among 172.16 .. 172.31
MAX_HOSTS = BLOCKS * HOSTS_PER_BLOCK
MAX_GUESTS_PER_HOST = 253
PREFIX_BITS = 24


@dataclass(frozen=True, slots=True)
class GuestAddress:
    """Where one guest is in the virtual network."""

    ip: IPv4Address
    prefix_bits: int
    gateway: IPv4Address
    mac: str
    tap: str  # at most 15 characters, unique on its host


def make_guest_address(host: int, slot: int) -> GuestAddress:
    """Return the addresses of the guest in `slot` of host number `host`; UsageError beyond the limits."""
    network = make_host_subnet(host)
    if not 1 <= slot <= MAX_GUESTS_PER_HOST:
        raise UsageError(
            f"can't place guest {slot} of host {host}: a host has room for 1 to {MAX_GUESTS_PER_HOST} guests",
            hint="use more hosts or fewer guests (-n)",
        )
    ip = network[slot]
    return GuestAddress(ip, PREFIX_BITS, make_gateway(host), make_mac(ip), f"tap{slot}")


def make_host_subnet(host: int) -> IPv4Network:
    """Return the /24 of host number `host`; UsageError when there are not so many hosts."""
    if not 1 <= host <= MAX_HOSTS:
        raise UsageError(
            f"can't number host {host}: the virtual network has room for 1 to {MAX_HOSTS} hosts", hint="use fewer hosts"
        )
    block, place = divmod(host - 1, HOSTS_PER_BLOCK)
    second = 16 + (FIRST_BLOCK - 16 + block) % BLOCKS
    return IPv4Network(f"172.{second}.{place + 1}.0/{PREFIX_BITS}")


def make_gateway(host: int) -> IPv4Address:
    """Return the address of host number `host` on its own bridge."""
    return make_host_subnet(host)[254]


def make_mac(ip: IPv4Address, kind: int = 0) -> str:
    """Return a unicast, locally administered MAC that holds `ip`; `kind` tells devices of one address apart."""
    return ":".join(f"{byte:02x}" for byte in (0x02, kind, *ip.packed))


def parse_guest_ip(ip: IPv4Address) -> tuple[int, int]:
    """Return (host, slot) of a guest's address, the inverse of `make_guest_address`; UsageError for any other."""
    first, second, third, slot = ip.packed
    block = (second - FIRST_BLOCK) % BLOCKS
    host = block * HOSTS_PER_BLOCK + third
    if first != 172 or not 16 <= second < 32 or not 1 <= third <= HOSTS_PER_BLOCK or not 1 <= slot <= 253:
        raise UsageError(f"{ip} is not the address of a guest")
    return host, slot
