# SPDX-License-Identifier: Apache-2.0
"""Host number and slot -> address, MAC and TAP of a guest; computed, never random, never from host names.

Hosts count from 1 in the order of the allocation, slots from 1 on each host. The number of hosts, and nothing else,
decides how wide the network of each is:

    hosts    up to 4,064    8,128    16,256    32,512    65,024    65,536
    network          /24      /25       /26       /27       /28       /29
    guests           253      125        61        29        13         5    at most, on each host

The networks lie side by side in 172.16.0.0/12, in each /16 (a block) from x.x.1.0 to x.x.254.255; the first block is
172.22, then up to 172.31, then from 172.16 to 172.21. So host 1 to 254 of a cluster that is not very large have
172.22.1.0/24 to 172.22.254.0/24, and 172.22.255.0/24 is left for the link to the outside. Guest j of a host has the jth
address of its network, the host itself, the gateway, the last one: `.j` and `.254` in a /24.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, summarize_address_range

from chslurm.errors import UsageError

OUTSIDE_LINK = IPv4Network("172.22.255.0/24")
"""Between a workstation's guests and the program that joins them to the outside."""

MAX_HOSTS = 1 << 16

_WIDEST, _NARROWEST = 24, 29  # bits of a prefix
_BLOCKS = 16
_FIRST_BLOCK = 6  # 172.22, counted from 172.16
_FIRST_ADDRESS = int(IPv4Address("172.16.0.0"))
_THIRDS_IN_BLOCK = 254  # third octets 1 to 254


@dataclass(frozen=True, slots=True)
class GuestAddress:
    """Where one guest is in the virtual network."""

    ip: IPv4Address
    prefix_bits: int
    gateway: IPv4Address
    mac: str
    tap: str  # at most 15 characters, unique on its host


@dataclass(frozen=True, slots=True)
class AddressLayout:
    """How the virtual network is divided among its hosts; made by `make_layout`."""

    host_ct: int
    prefix_bits: int  # of the network of every host

    @property
    def most_hosts(self) -> int:
        """How many hosts have room in networks of this width."""
        return min(_BLOCKS * self._hosts_in_block, MAX_HOSTS)

    @property
    def most_guests(self) -> int:
        """How many guests have room on each host, beside the network's first and last address and the gateway."""
        return self._size - 3

    def subnet(self, host: int) -> IPv4Network:
        """Return the network of host number `host`; UsageError when the cluster has no such host."""
        return IPv4Network((self._start(host), self.prefix_bits))

    def gateway(self, host: int) -> IPv4Address:
        """Return the address of host number `host` on its own bridge."""
        return IPv4Address(self._start(host) + self._size - 2)

    def guest(self, host: int, slot: int) -> GuestAddress:
        """Return the addresses of the guest in `slot` of host number `host`; UsageError beyond the limits."""
        if not 1 <= slot <= self.most_guests:
            raise UsageError(
                f"can't place guest {slot} of host {host}: a host has room for 1 to {self.most_guests} guests",
                hint="use fewer guests (-n)",
            )
        ip = IPv4Address(self._start(host) + slot)
        return GuestAddress(ip, self.prefix_bits, self.gateway(host), make_mac(ip), f"tap{slot}")

    def join(self, first: int, last: int) -> tuple[IPv4Network, ...]:
        """Return the networks of hosts `first` to `last`, neighbours joined to as few as can be."""
        networks: list[IPv4Network] = []
        while first <= last:
            end = min(last, first + self._hosts_in_block - 1 - (first - 1) % self._hosts_in_block)
            networks += summarize_address_range(self.subnet(first)[0], self.subnet(end)[-1])
            first = end + 1
        return tuple(networks)

    @property
    def _size(self) -> int:
        return 1 << 32 - self.prefix_bits

    @property
    def _hosts_in_block(self) -> int:
        return _THIRDS_IN_BLOCK << self.prefix_bits - _WIDEST

    def _start(self, host: int) -> int:
        """The first address of the host's network, as a number."""
        if not 1 <= host <= self.host_ct:
            raise UsageError(f"can't number host {host}: the cluster has 1 to {self.host_ct}")
        block, place = divmod(host - 1, self._hosts_in_block)
        return _FIRST_ADDRESS + ((_FIRST_BLOCK + block) % _BLOCKS << 16) + 256 + place * self._size


def make_layout(host_ct: int, most_guests: int = 1) -> AddressLayout:
    """Return the layout for `host_ct` hosts, none with more than `most_guests`; UsageError when they have no room."""
    layout = next((layout for layout in _layouts(host_ct) if 1 <= host_ct <= layout.most_hosts), None)
    if layout is None:
        raise UsageError(
            f"can't number {host_ct} hosts: the virtual network has room for 1 to {MAX_HOSTS}", hint="use fewer hosts"
        )
    if most_guests > layout.most_guests:
        wider = [wider.most_hosts for wider in _layouts(host_ct) if wider.most_guests >= most_guests]
        raise UsageError(
            f"can't place {most_guests} guests on one host: in a cluster of {host_ct} hosts each has room for "
            f"{layout.most_guests}",
            hint="use fewer guests (-n)" + (f", or at most {wider[-1]} hosts" if wider else ""),
        )
    return layout


def _layouts(host_ct: int) -> Iterator[AddressLayout]:
    """Every width of network, the widest first."""
    return (AddressLayout(host_ct, bits) for bits in range(_WIDEST, _NARROWEST + 1))


MAX_GUESTS = max(layout.most_hosts * layout.most_guests for layout in _layouts(MAX_HOSTS))
"""No cluster has more."""


def make_mac(ip: IPv4Address, kind: int = 0) -> str:
    """Return a unicast, locally administered MAC that holds `ip`; `kind` tells devices of one address apart."""
    return bytes((0x02, kind, *ip.packed)).hex(":")
