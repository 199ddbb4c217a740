# SPDX-License-Identifier: Apache-2.0
"""The text of filters; what they hold in and let pass is shown with a real kernel, in tests/kernel/test_filters.py."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chslurm.addresses import MAX_HOSTS, make_layout
from chslurm.errors import ChslurmError
from chslurm.filters import Family, Realm, make_packet_filters
from chslurm.linkfilters import check_refusals, make_bridge_filters, make_tap_filters, render_refusals
from chslurm.plan import Mode


def make_realm(mode: Mode = Mode.CLUSTER, host: int = 1, host_ct: int = 2, slots: int = 2) -> Realm:
    layout = make_layout(host_ct)
    return Realm(layout, host, mode, tuple(layout.guest(host, slot) for slot in range(1, slots + 1)))


def render_all(realm: Realm) -> str:
    return make_packet_filters(realm) + make_tap_filters(realm) + make_bridge_filters(realm)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, MAX_HOSTS), st.data())
def test_the_others_are_exactly_the_other_hosts(host_ct: int, data: st.DataObject) -> None:
    host, asked = data.draw(st.integers(1, host_ct)), data.draw(st.integers(1, host_ct))
    layout = make_layout(host_ct)
    others = make_realm(host=host, host_ct=host_ct, slots=1).others
    assert sum(map(_size, others)) == (host_ct - 1) * _size(layout.subnet(host))
    assert any(layout.subnet(asked).subnet_of(network) for network in others) == (asked != host)


def _size(network: IPv4Network) -> int:
    return int(network.num_addresses)


@pytest.mark.parametrize("mode", list(Mode))
def test_rules_do_not_grow_with_guests(mode: Mode) -> None:
    few, many = (render_all(make_realm(mode, slots=slots)) for slots in (1, 253))
    assert few.count("\n") == many.count("\n")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("mode", list(Mode))
def test_whatever_filters_drops_by_default(mode: Mode, shared: bool) -> None:
    hooks = re.findall(r"type filter hook (\w+) .*priority (\w+); policy (\w+)", render_all(make_realm(mode)))
    assert {policy for _, priority, policy in hooks if priority == "filter"} == {"drop"}
    assert {hook for hook, _, _ in hooks} >= {"ingress", "prerouting", "input", "forward", "output", "postrouting"}


def test_links_of_others_are_left_alone_only_where_there_are_some() -> None:
    own, shared = (
        render_all(replace(make_realm(), table="chslurm_7", bridge="chbr7", tunnel="chvx7", shared=shared))
        for shared in (False, True)
    )
    assert "@ports" not in own
    assert shared.count("!= @ports accept") == 5
    assert shared.count('!= { "chbr7", "chvx7" }') == 3
    assert not re.search(r"\b(br0|vx0)\b", own + shared)
    assert set(re.findall(r"^table \w+ (\w+)", own + shared, re.MULTILINE)) == {"chslurm_7", "chslurm_7_again"}


def test_a_workstation_does_not_reach_what_is_not_outside() -> None:
    never = make_realm(Mode.WORKSTATION, host_ct=1).never
    for address in (
        "0.0.0.0",
        "127.0.0.1",
        "169.254.169.254",
        "172.22.1.9",
        "172.22.255.2",
        "224.0.0.251",
        "255.255.255.255",
    ):
        assert any(IPv4Address(address) in network for network in never), address
    for address in ("10.0.0.1", "192.168.1.1", "172.22.2.1", "8.8.8.8", "223.255.255.255"):
        assert not any(IPv4Address(address) in network for network in never), address


@pytest.mark.parametrize("refused", [(Family.INET,), (Family.NETDEV, Family.BRIDGE), tuple(Family)])
def test_guests_do_not_start_where_a_kernel_can_not_hold_them(refused: tuple[Family, ...]) -> None:
    with pytest.raises(ChslurmError, match=r"can't filter what guests send: .*family .*: Operation not supported"):
        check_refusals(dict.fromkeys(refused, "Operation not supported"))


@pytest.mark.parametrize("refused", [(), (Family.NETDEV,), (Family.BRIDGE,)])
def test_one_place_less_is_told(refused: tuple[Family, ...]) -> None:
    words = dict.fromkeys(refused, "Operation not supported")
    check_refusals(words)
    assert [family for family in Family if f"no filters of family {family} here" in render_refusals(words)] == list(
        refused
    )
