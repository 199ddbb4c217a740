# SPDX-License-Identifier: Apache-2.0
"""Guests of a workstation reach the outside and names; nobody outside reaches them."""

from __future__ import annotations

import pytest
from lab import Lab, Namespace

OUTSIDE = "198.51.100.1"


@pytest.fixture
def host(lab: Lab) -> Namespace:
    """A host with a resolver on its loopback, as systemd-resolved is, and an outside with a server."""
    host = lab.add_host(1)
    host.set_resolver("127.0.0.53")
    host.serve("names", "dns", 53, "127.0.0.53")
    for kind in ("tcp", "udp"):
        lab.outside.serve("outside", kind, 7000, OUTSIDE)
        host.serve("loopback", kind, 7001, "127.0.0.1")
    return host


def test_outside_is_reached_by_every_protocol_and_by_name(lab: Lab, host: Namespace) -> None:
    node = lab.start(host, mode="workstation")
    guest, other = node.guests
    assert node.ask("join_outside") == "outside by pasta over eth0; names from 127.0.0.53"
    assert guest.asks("tcp", OUTSIDE) == "outside"
    assert guest.asks("udp", OUTSIDE) == "outside"
    assert guest.pings(OUTSIDE)
    assert guest.pings(other.ip)
    assert guest.asks("dns", guest.address.gateway, 53) == OUTSIDE
    assert guest.asks("dns-tcp", guest.address.gateway, 53) == OUTSIDE
    guest.set_resolver(str(guest.address.gateway))
    assert guest.asks("tcp", "outside.test") == "outside"


def test_the_loopback_of_the_host_is_not_reached(lab: Lab, host: Namespace) -> None:
    node = lab.start(host, mode="workstation")
    node.ask("join_outside")
    guest = node.guests[0]
    for kind in ("tcp", "udp"):
        assert host.asks(kind, "127.0.0.1", 7001) == "loopback"
        for place in ("127.0.0.1", guest.address.gateway, "172.22.255.2", "172.22.255.100", "10.99.0.1"):
            assert guest.asks(kind, place, 7001) == "", (kind, place)


def test_the_ssh_server_of_the_host_is_reached_by_the_name_of_the_gateway(lab: Lab, host: Namespace) -> None:
    node = lab.start(host, mode="workstation")
    node.ask("join_outside")
    for guest in node.guests:
        assert guest.asks("tcp", guest.address.gateway, 22) == ""  # no server yet: the connection is reset
    host.serve("sshd", "tcp", 22, "127.0.0.1")
    for guest in node.guests:
        assert guest.asks("tcp", guest.address.gateway, 22) == "sshd"
        assert guest.asks("udp", guest.address.gateway, 22) == ""
    assert lab.outside.asks("tcp", "10.99.0.1", 22) == ""


def test_nobody_outside_reaches_guests(lab: Lab, host: Namespace) -> None:
    node = lab.start(host, mode="workstation")
    node.ask("join_outside")
    guest, other = node.guests
    guest.serve("guest", "tcp", 7005)
    assert other.asks("tcp", guest.ip, 7005) == "guest"
    lab.outside.sh("ip route add 172.22.1.0/24 via 10.99.0.1")
    host.sh("sysctl -qw net.ipv4.ip_forward=1")
    for place in ("10.99.0.1", guest.ip):
        assert lab.outside.asks("tcp", place, 7005) == "", place
    assert host.asks("tcp", "10.99.0.1", 7005) == ""
    assert host.asks("tcp", guest.ip, 7005) == ""


def test_without_a_default_route_the_near_network_is_reached(lab: Lab) -> None:
    host = lab.add_host(1, default_route=False)
    lab.outside.serve("near", "tcp", 7000)
    node = lab.start(host, slots=1, mode="workstation")
    assert node.ask("join_outside").startswith("outside by pasta over eth0")
    assert node.guests[0].asks("tcp", "10.99.0.254") == "near"


def test_without_any_interface_guests_still_start(lab: Lab) -> None:
    host = lab.add_host(1)
    host.sh("ip link set eth0 down")
    node = lab.start(host, mode="workstation")
    assert "outside by " in node.ask("join_outside")
    assert node.guests[0].pings(node.guests[1].ip)


def test_slirp4netns_stands_in_for_pasta(lab: Lab, host: Namespace) -> None:
    host.hide_program("pasta")
    node = lab.start(host, mode="workstation")
    how = node.ask("join_outside")
    assert how.startswith("outside by slirp4netns, because pasta is not installed")
    guest = node.guests[0]
    assert guest.asks("tcp", OUTSIDE) == "outside"
    assert guest.asks("udp", OUTSIDE) == "outside"
    assert guest.asks("dns", guest.address.gateway, 53) == OUTSIDE
    assert guest.asks("tcp", "172.22.255.2", 7001) == ""


def test_two_resolvers_of_which_one_is_dead(lab: Lab, host: Namespace) -> None:
    host.set_resolver("127.0.0.99", "127.0.0.53")
    node = lab.start(host, slots=1, mode="workstation")
    node.ask("join_outside")
    gateway = node.guests[0].address.gateway
    assert node.guests[0].asks("dns", gateway, 53) == OUTSIDE
    assert node.guests[0].asks("dns-tcp", gateway, 53) == OUTSIDE
