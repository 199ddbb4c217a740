# SPDX-License-Identifier: Apache-2.0
"""Guests in a network that root made: whom they reach, who reaches them, and nobody else."""

from __future__ import annotations

import subprocess

import pytest
from lab import Lab
from sitelab import OTHER_USER, PYTHON, USER, Site, SiteNode

OUTSIDE = "198.51.100.1"
GATEWAY = "172.22.1.254"


@pytest.fixture
def site(lab: Lab) -> Site:
    """A host with a resolver on its loopback, services on all addresses, and an outside with a server."""
    site = Site(lab)
    site.host.set_resolver("127.0.0.53")
    site.host.serve("names", "dns", 53, "127.0.0.53")
    site.host.serve("service", "tcp", 7001)
    site.host.serve("service", "udp", 7001)
    site.start()
    for kind in ("tcp", "udp"):
        lab.outside.serve("outside", kind, 7000, OUTSIDE)
    return site


def open_chain(site: Site, chain: str) -> None:
    """Let a chain pass everything, in both tables that say the same."""
    for table in ("chslurm_w", "chslurm_w_again"):
        site.host.sh(f"nft flush chain inet {table} {chain}")


def join(site: Site, *slots: int) -> SiteNode:
    node = SiteNode(site, slots)
    assert node.read() == {"joined": "outside by NAT of this host, through chbr0; names from 127.0.0.53"}
    return node


def test_guests_reach_the_outside_names_and_each_other(site: Site) -> None:
    guest, other = join(site, 1, 2).guests
    assert guest.asks("tcp", OUTSIDE) == "outside"
    assert guest.asks("udp", OUTSIDE) == "outside"
    assert guest.pings(OUTSIDE)
    assert guest.pings(other.ip)
    assert guest.pings(GATEWAY)
    for each in (guest, other):
        assert each.asks("dns", GATEWAY, 53) == OUTSIDE
        assert each.asks("dns-tcp", GATEWAY, 53) == OUTSIDE


def test_guests_reach_the_hosts_ssh_server_and_nothing_else_of_it(site: Site) -> None:
    guest = join(site, 1).guests[0]
    assert guest.asks_all([("tcp", GATEWAY, 22)]) == [""]
    site.host.serve("sshd", "tcp", 22, "127.0.0.1")
    assert guest.asks("tcp", GATEWAY, 22) == "sshd"
    assert site.host.asks("tcp", "10.99.0.1", 7001) == "service"
    services = [(kind, place, 7001) for kind in ("tcp", "udp") for place in (GATEWAY, "10.99.0.1", "127.0.0.1")]
    relays = [("tcp", GATEWAY, port) for port in (17001, 17301, 17002)]
    assert not any(guest.asks_all([*services, *relays]))
    assert not guest.pings("10.99.0.1")


def test_owner_and_root_reach_guests_from_the_host_and_nobody_else(site: Site) -> None:
    guest = join(site, 1).guests[0]
    guest.serve("guest", "tcp", 7005)
    assert site.asks(USER, guest.ip, 7005) == "guest"
    assert site.asks(0, guest.ip, 7005) == "guest"
    assert site.asks(OTHER_USER, guest.ip, 7005) == ""
    pings = [site.as_user(user, "ping", "-c1", "-W2", guest.ip).returncode for user in (USER, 0, OTHER_USER)]
    assert (pings[:2], pings[2] != 0) == ([0, 0], True)
    connect = f"import socket; socket.create_connection(('{guest.ip}', 7005), 5)"
    told = site.as_user(OTHER_USER, "python3", "-c", connect).stderr
    told = told or site.as_user(OTHER_USER, "/usr/bin/python3", "-c", connect).stderr
    assert "ConnectionRefusedError" in told
    open_chain(site, "output")  # with this chain gone, he would
    assert site.asks(OTHER_USER, guest.ip, 7005) == "guest"


def test_nobody_can_answer_guests_in_the_owners_place(site: Site) -> None:
    """Another user has the port at which a relay would listen: the cluster does not start, and is not answered."""
    squatter = ("setpriv", "--reuid", str(OTHER_USER), "--clear-groups")
    listen = "import socket, time; s = socket.create_server(('', 17301)); print('up', flush=True); time.sleep(600)"
    with subprocess.Popen(site.host.argv(*squatter, "/usr/bin/python3", "-c", listen), stdout=subprocess.PIPE) as thief:
        assert thief.stdout
        thief.stdout.readline()
        node = SiteNode(site, [1])
        assert "another program has this port" in node.read()["error"]
        thief.kill()


def test_nobody_outside_reaches_guests(site: Site, lab: Lab) -> None:
    guest = join(site, 1).guests[0]
    guest.serve("guest", "tcp", 7005)
    lab.outside.sh("ip route add 172.22.1.0/24 via 10.99.0.1; ip addr del 172.22.1.2/32 dev lo")
    questions = [("tcp", guest.ip, 7005), ("tcp", GATEWAY, 7001), ("tcp", GATEWAY, 17301), ("dns", GATEWAY, 17001)]
    assert not any(lab.outside.asks_all(questions))
    assert lab.outside.asks("tcp", "10.99.0.1", 7001) == "service"
    open_chain(site, "forward")
    assert lab.outside.asks_all([("tcp", guest.ip, 7005)]) == [""]  # nor does its answer leave under its own address
    site.host.sh("nft flush chain inet chslurm_w_again bare")
    assert lab.outside.asks("tcp", guest.ip, 7005) == "guest"
    open_chain(site, "input")
    assert lab.outside.asks("dns", GATEWAY, 17001) == OUTSIDE


def test_the_host_is_no_router_for_others(site: Site, lab: Lab) -> None:
    """eth0 forwards now, for guests: whoever is out there gets no further than before."""
    inner = lab.keep(type(site.host)())
    site.host.sh(f"ip link add in0 type veth peer name eth0 netns {inner.pid}; ip addr add 10.77.0.1/24 dev in0")
    site.host.sh("ip link set in0 up; sysctl -qw net.ipv4.conf.in0.forwarding=1")
    inner.sh("ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.77.0.1")
    inner.serve("inner", "tcp", 7006)
    lab.outside.sh("ip route add 10.77.0.0/24 via 10.99.0.1")
    assert lab.outside.asks_all([("tcp", "10.77.0.2", 7006)]) == [""]
    assert inner.asks("tcp", OUTSIDE) == "outside"  # answers to others' connections pass
    open_chain(site, "forward")
    assert lab.outside.asks("tcp", "10.77.0.2", 7006) == "inner"


def test_a_guest_is_held_to_its_own_addresses(site: Site) -> None:
    guest, other = join(site, 1, 2).guests
    assert guest.asks("tcp", OUTSIDE) == "outside"
    default = f"ip route replace default via {GATEWAY}"
    guest.sh(f"ip addr flush dev eth0; ip addr add 172.22.1.3/24 dev eth0; {default}")
    assert guest.asks_all([("tcp", OUTSIDE, 7000)]) == [""]
    assert not guest.pings(other.ip)
    guest.sh(f"ip addr flush dev eth0; ip addr add 172.22.1.1/24 dev eth0; {default}")
    assert guest.asks("tcp", OUTSIDE) == "outside"
    guest.sh("ip link set eth0 address 02:00:ac:16:01:02")
    assert not guest.pings(GATEWAY)
    guest.sh(f"ip link set eth0 address {guest.address.mac}; sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0")
    guest.sh(f"ip link set eth0 down; ip link set eth0 up; {default}")
    assert guest.pings(GATEWAY)
    assert "0 received" in guest.run("ping", "-6", "-L", "-c2", "-W1", "ff02::1%eth0").stdout


def test_taps_on_offer_are_those_that_are_free_and_ours(site: Site) -> None:
    join(site, 2)
    ask = "from chslurm.host.sitetaps import find_site_offer as f; print(f())"
    offers = [site.as_user(user, *PYTHON, "-c", ask).stdout for user in (USER, OTHER_USER)]
    assert offers[0] == "SiteOffer(slots=(1, 3), words='2 of 3 TAPs free, 1 in use')\n"
    assert offers[1] == "SiteOffer(slots=(), words='0 of 3 TAPs free, 3 of another user')\n"
    site.stop()
    assert site.as_user(USER, *PYTHON, "-c", ask).stdout == "None\n"


def test_two_clusters_have_taps_and_addresses_of_their_own(site: Site) -> None:
    first, second = join(site, 1, 2), join(site, 3)
    assert second.guests[0].asks("dns", GATEWAY, 53) == OUTSIDE
    assert SiteNode(site, [2]).read()["error"].startswith("[Errno 16]")
    first.end()
    assert second.guests[0].asks("dns", GATEWAY, 53) == OUTSIDE
    assert join(site, 1, 2).guests[0].asks("dns", GATEWAY, 53) == OUTSIDE


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_a_cluster_hears_that_its_network_is_gone(site: Site, verb: str) -> None:
    node = join(site, 1)
    assert "in use by guests: chtap1\n" in site.do("status").stdout
    site.host.sh("ip link set other0 down")  # is nothing to it
    done = site.do(verb)
    assert "guests at chtap1 lose their network" in done.stdout
    assert "the network that root made here is gone" in node.read()["lost"]
