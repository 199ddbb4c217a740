# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.addresses import (
    MAX_GUESTS_PER_HOST,
    MAX_HOSTS,
    make_gateway,
    make_guest_address,
    make_host_subnet,
    make_mac,
    parse_guest_ip,
)
from chslurm.errors import UsageError

hosts = st.integers(1, MAX_HOSTS)
slots = st.integers(1, MAX_GUESTS_PER_HOST)


def test_the_documented_scheme() -> None:
    address = make_guest_address(1, 2)
    assert str(address.ip) == "172.22.1.2"
    assert str(address.gateway) == "172.22.1.254"
    assert address.prefix_bits == 24
    assert address.mac == "02:00:ac:16:01:02"


@pytest.mark.parametrize(
    ("host", "subnet"),
    [
        (254, "172.22.254.0/24"),
        (255, "172.23.1.0/24"),
        (254 * 10, "172.31.254.0/24"),
        (254 * 10 + 1, "172.16.1.0/24"),
        (MAX_HOSTS, "172.21.254.0/24"),
    ],
)
def test_more_hosts_than_one_block_holds(host: int, subnet: str) -> None:
    assert make_host_subnet(host) == IPv4Network(subnet)


def test_enough_hosts() -> None:
    assert MAX_HOSTS >= 4000


def test_no_two_hosts_share_a_subnet_and_none_has_that_of_the_uplink() -> None:
    subnets = {make_host_subnet(host) for host in range(1, MAX_HOSTS + 1)}
    assert len(subnets) == MAX_HOSTS
    assert IPv4Network("172.22.255.0/24") not in subnets
    assert all(subnet.subnet_of(IPv4Network("172.16.0.0/12")) for subnet in subnets)


@given(st.sets(st.tuples(hosts, slots), min_size=1, max_size=50))
def test_addresses_are_unique_and_reversible(guests: set[tuple[int, int]]) -> None:
    addresses = [make_guest_address(host, slot) for host, slot in guests]
    assert len({address.ip for address in addresses}) == len(guests)
    assert len({address.mac for address in addresses}) == len(guests)
    assert {parse_guest_ip(address.ip) for address in addresses} == guests
    assert not {address.ip for address in addresses} & {address.gateway for address in addresses}


@given(hosts, slots)
def test_macs_are_unicast_and_local_and_taps_fit_the_kernel(host: int, slot: int) -> None:
    address = make_guest_address(host, slot)
    assert int(address.mac[:2], 16) & 3 == 2
    assert len(address.tap) <= 15
    assert make_mac(address.ip, kind=1) != address.mac
    assert make_gateway(host) in make_host_subnet(host)


@pytest.mark.parametrize(
    ("host", "slot", "said"),
    [
        (0, 1, "1 to 4064 hosts"),
        (MAX_HOSTS + 1, 1, "1 to 4064 hosts"),
        (1, 0, "1 to 253 guests"),
        (1, MAX_GUESTS_PER_HOST + 1, "1 to 253 guests"),
        (-1, -1, "1 to 4064 hosts"),
    ],
)
def test_beyond_the_limits(host: int, slot: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_guest_address(host, slot)


@pytest.mark.parametrize("ip", ["10.0.0.1", "172.15.1.1", "172.32.1.1", "172.22.0.1", "172.22.255.1", "172.22.1.254"])
def test_other_addresses_are_nobodys(ip: str) -> None:
    with pytest.raises(UsageError, match="not the address of a guest"):
        parse_guest_ip(IPv4Address(ip))
