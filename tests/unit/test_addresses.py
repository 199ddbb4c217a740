# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, collapse_addresses

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chslurm.addresses import MAX_GUESTS, MAX_HOSTS, OUTSIDE_LINK, AddressLayout, make_layout, make_mac
from chslurm.errors import UsageError

MILLION = 1_000_000
PRIVATE = IPv4Network("172.16.0.0/12")
WIDTHS = [(24, 4064, 253), (25, 8128, 125), (26, 16256, 61), (27, 32512, 29), (28, 65024, 13), (29, 65536, 5)]
host_counts = st.one_of(
    st.integers(1, MAX_HOSTS), st.sampled_from([most + more for _, most, _ in WIDTHS for more in (0, 1)][:-1])
)
layouts = st.builds(make_layout, host_counts)


def test_the_documented_scheme() -> None:
    address = make_layout(1).guest(1, 2)
    assert str(address.ip) == "172.22.1.2"
    assert str(address.gateway) == "172.22.1.254"
    assert address.prefix_bits == 24
    assert address.mac == "02:00:ac:16:01:02"
    assert address.tap == "tap2"


@given(st.integers(1, 254), st.data())
def test_hosts_up_to_254_as_users_know_them(host: int, data: st.DataObject) -> None:
    layout, slot = make_layout(data.draw(st.integers(host, 254))), data.draw(st.integers(1, 253))
    assert str(layout.subnet(host)) == f"172.22.{host}.0/24"
    assert str(layout.gateway(host)) == f"172.22.{host}.254"
    assert str(layout.guest(host, slot).ip) == f"172.22.{host}.{slot}"


@pytest.mark.parametrize(
    ("host_ct", "host", "subnet", "gateway"),
    [
        (255, 254, "172.22.254.0/24", "172.22.254.254"),
        (255, 255, "172.23.1.0/24", "172.23.1.254"),
        (4064, 254 * 10, "172.31.254.0/24", "172.31.254.254"),
        (4064, 254 * 10 + 1, "172.16.1.0/24", "172.16.1.254"),
        (4064, 4064, "172.21.254.0/24", "172.21.254.254"),
        (4065, 1, "172.22.1.0/25", "172.22.1.126"),
        (4065, 2, "172.22.1.128/25", "172.22.1.254"),
        (4065, 509, "172.23.1.0/25", "172.23.1.126"),
        (10000, 10000, "172.31.214.192/26", "172.31.214.254"),
        (65024, 65024, "172.21.254.240/28", "172.21.254.254"),
        (65536, 65536, "172.30.16.248/29", "172.30.16.254"),
    ],
)
def test_the_networks_of_larger_clusters(host_ct: int, host: int, subnet: str, gateway: str) -> None:
    layout = make_layout(host_ct)
    assert layout.subnet(host) == IPv4Network(subnet)
    assert layout.gateway(host) == IPv4Address(gateway)


@pytest.mark.parametrize(("bits", "most_hosts", "most_guests"), WIDTHS)
def test_networks_are_as_wide_as_can_be(bits: int, most_hosts: int, most_guests: int) -> None:
    layout = make_layout(most_hosts, most_guests)
    assert (layout.prefix_bits, layout.most_hosts, layout.most_guests) == (bits, most_hosts, most_guests)
    if most_hosts < MAX_HOSTS:
        assert make_layout(most_hosts + 1).prefix_bits == bits + 1
    assert most_hosts * most_guests <= MAX_GUESTS


def test_no_cluster_has_more_guests() -> None:
    assert MAX_GUESTS == 4064 * 253 > MILLION


@settings(deadline=None, max_examples=5)
@given(host_counts, st.integers(1, 20_000))
@example(4064, MILLION)
@example(65_536, 1)
def test_every_guest_of_a_cluster_has_its_place(host_ct: int, guests: int) -> None:
    """Of a million, where so many have room; else of as many as have."""
    layout = make_layout(host_ct)
    check_guests(layout, min(layout.most_guests, -(-guests // host_ct)))


def check_guests(layout: AddressLayout, per_host: int) -> None:
    taken: set[int] = set()
    macs: set[str] = set()
    uplink = range(int(OUTSIDE_LINK[0]), int(OUTSIDE_LINK[-1]) + 1)
    whole = range(int(PRIVATE[0]), int(PRIVATE[-1]) + 1)
    ends: set[int] = set()
    for host in range(1, layout.host_ct + 1):
        subnet = layout.subnet(host)
        first, last = int(subnet.network_address), int(subnet.broadcast_address)
        gateway = int(layout.gateway(host))
        assert first in whole
        assert last in whole
        assert first not in uplink
        assert last not in uplink
        assert first < gateway < last
        ends |= {first, last, gateway}
        before = first
        for slot in range(1, per_host + 1):
            address = layout.guest(host, slot)
            ip = int(address.ip)
            assert before < ip < gateway  # inside, upwards, and none of the special ones
            before = ip
            taken.add(ip)
            macs.add(address.mac)
        assert address.gateway == layout.gateway(host)
    guests = layout.host_ct * per_host
    assert len(taken) == len(macs) == guests
    assert len(ends) == 3 * layout.host_ct
    assert not taken & ends
    assert not {ip & 255 for ip in taken} & {0, 254, 255}, "what looks like a host, or like a network of before CIDR"


@given(layouts, st.data())
def test_a_guest_stays_where_it_is(layout: AddressLayout, data: st.DataObject) -> None:
    """Its address follows from host, slot and the width of networks: more hosts of the same width change nothing."""
    fewer = data.draw(
        st.integers(1, layout.host_ct).filter(lambda count: make_layout(count).prefix_bits == layout.prefix_bits)
    )
    host = data.draw(st.integers(1, fewer))
    slot = data.draw(st.integers(1, layout.most_guests))
    assert make_layout(fewer, slot).guest(host, slot) == layout.guest(host, slot)


@given(layouts, st.data())
def test_addresses_count_up_with_hosts(layout: AddressLayout, data: st.DataObject) -> None:
    """From 172.22.1.0 on: the networks come in the order of hosts, seen round the circle of 172.16.0.0/12."""
    second = data.draw(st.integers(1, layout.host_ct))
    first = data.draw(st.integers(0, second - 1)) or second
    start = int(IPv4Address("172.22.0.0"))
    low, high = ((int(layout.subnet(host)[0]) - start) % PRIVATE.num_addresses for host in (first, second))
    assert first == second or low + layout.subnet(first).num_addresses <= high


@settings(deadline=None)
@given(layouts, st.data())
def test_joined_networks_are_exactly_those_of_the_hosts(layout: AddressLayout, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, layout.host_ct))
    last = data.draw(st.integers(first, min(layout.host_ct, first + 3000)))
    joined = layout.join(first, last)
    assert sorted(joined) == list(collapse_addresses(layout.subnet(host) for host in range(first, last + 1)))
    assert layout.join(first, first - 1) == ()


def test_the_networks_of_all_hosts_are_few_when_joined() -> None:
    for host_ct in (1, 254, 4064, 10_000, 65_024, 65_536):
        assert len(make_layout(host_ct).join(1, host_ct)) <= 16 * 14


@given(layouts, st.data())
def test_macs_are_unicast_and_local_and_taps_fit_the_kernel(layout: AddressLayout, data: st.DataObject) -> None:
    address = layout.guest(data.draw(st.integers(1, layout.host_ct)), data.draw(st.integers(1, layout.most_guests)))
    assert int(address.mac[:2], 16) & 3 == 2
    assert IPv4Address(bytes.fromhex(address.mac.replace(":", ""))[2:]) == address.ip
    assert len(address.tap) <= 15
    assert make_mac(address.ip, kind=1) != address.mac


@pytest.mark.parametrize(
    ("host_ct", "most_guests", "said", "remedy"),
    [
        (0, 1, "0 hosts: the virtual network has room for 1 to 65536", "fewer hosts"),
        (65537, 1, "65537 hosts: the virtual network has room for 1 to 65536", "fewer hosts"),
        (1, 254, "254 guests on one host: in a cluster of 1 hosts each has room for 253", "fewer guests (-n)"),
        (10000, 100, "100 guests on one host: in a cluster of 10000 hosts each has room for 61", "at most 8128 hosts"),
        (65536, 6, "6 guests on one host: in a cluster of 65536 hosts each has room for 5", "at most 65024 hosts"),
    ],
)
def test_what_has_no_room(host_ct: int, most_guests: int, said: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        make_layout(host_ct, most_guests)
    assert remedy in refused.value.hint


@pytest.mark.parametrize(("host", "slot"), [(0, 1), (4, 1), (-1, 1), (1, 0), (1, 254), (1, -1)])
def test_nobody_has_an_address_beyond_the_cluster(host: int, slot: int) -> None:
    with pytest.raises(UsageError):
        make_layout(3).guest(host, slot)
