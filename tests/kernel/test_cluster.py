# SPDX-License-Identifier: Apache-2.0
"""Guests of a cluster reach each other, on any host, and nothing else. Each 'nothing' has a positive control."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lab import OTHER_USER, PACKAGE, USER, Guest, Lab, Node, join

from chslurm.host.pasta import sends_from_one_socket


def reach(guest: Guest, *others: Guest) -> bool:
    return all(guest.pings(other.ip) for other in others)


@pytest.mark.parametrize("queue_ct", [1, 3])
def test_guests_of_one_host_reach_each_other_and_the_gateway(lab: Lab, queue_ct: int) -> None:
    first, second = lab.start(lab.add_host(1), queue_ct=queue_ct).guests
    for _ in range(queue_ct):  # through each queue
        assert reach(first, second)
        assert first.pings(first.address.gateway)


@pytest.mark.parametrize("path_mtu", [1400, 1500, 9000])
def test_exact_mtu_between_hosts(lab: Lab, path_mtu: int) -> None:
    """A packet of the guests' MTU passes and one byte more does not, even when both ends would take it."""
    nodes = [lab.start(lab.add_host(number, mtu=path_mtu), number, 1, host_ct=2) for number in (1, 2)]
    join(nodes, mtu=path_mtu)
    (here,), (there,) = (node.guests for node in nodes)
    mtu = path_mtu - 50
    for guest in (here, there):
        guest.set_mtu(mtu + 1)
    assert here.pings(there.ip, mtu)
    assert there.pings(here.ip, mtu)
    assert not here.pings(there.ip, mtu + 1)
    assert not there.pings(here.ip, mtu + 1)


def test_the_tunnel_itself_never_fragments(lab: Lab) -> None:
    """With every device of ours too generous by one byte the path still refuses: no packet of the tunnel is cut up."""
    nodes = [lab.start(lab.add_host(number), number, 1, host_ct=2) for number in (1, 2)]
    join(nodes, mtu=1501)
    (here,), (there,) = (node.guests for node in nodes)
    for guest in (here, there):
        guest.set_mtu(1451)
    sent = "cat /proc/net/snmp | awk '/^Ip:/ {print $19}' | tail -1"  # FragCreates
    before = nodes[0].on.sh(sent)
    assert here.pings(there.ip, 1450)
    here.pings(there.ip, 1451)
    assert nodes[0].on.sh(sent) == before


def test_three_hosts(lab: Lab) -> None:
    nodes = [lab.start(lab.add_host(number), number, 2, host_ct=3) for number in (1, 2, 3)]
    join(nodes)
    guests = [guest for node in nodes for guest in node.guests]
    for guest in guests:
        assert reach(guest, *guests)
        assert all(guest.pings(node.guests[0].address.gateway) for node in nodes)
    guests[5].serve("far", "tcp", 7000)
    guests[5].serve("far", "udp", 7000)
    assert guests[0].asks("tcp", guests[5].ip) == "far"
    assert guests[0].asks("udp", guests[5].ip) == "far"


def test_guests_reach_nothing_but_their_cluster(lab: Lab) -> None:
    hosts = [lab.add_host(number) for number in (1, 2, 3)]
    nodes = [lab.start(host, number, 2, host_ct=2) for number, host in enumerate(hosts[:2], 1)]
    join(nodes)
    here, there = nodes[0].guests[0], nodes[1].guests[0]
    for kind in ("tcp", "udp"):
        there.serve("guest", kind, 7000)
        lab.outside.serve("outside", kind, 7000)
        for number, host in enumerate(hosts, 1):
            host.serve(f"host {number}", kind, 7000)
            host.serve(f"host {number}", kind, 22)
            # positive control: whoever is not in the cluster gets an answer
            assert lab.outside.asks(kind, f"10.99.0.{number}") == f"host {number}"
        assert hosts[0].asks(kind, "10.99.0.254") == "outside"
        assert here.asks(kind, there.ip) == "guest"
    gateway = here.address.gateway
    places: list[object] = ["10.99.0.1", "10.99.0.2", "10.99.0.3", "10.99.0.254", "198.51.100.1", "127.0.0.1", gateway]
    places += ["172.22.2.254", "172.22.255.2", "172.22.255.100", "172.22.3.1", "169.254.169.254", "255.255.255.255"]
    questions = [(kind, place, port) for kind in ("tcp", "udp") for place in places for port in (22, 7000)]
    answers = dict(zip(questions, here.asks_all(questions), strict=True))
    assert not any(answers.values()), answers
    for place in places:
        if place not in ("127.0.0.1", gateway, "172.22.2.254"):
            assert not here.pings(place), place


def test_no_ipv6_of_ours_answers(lab: Lab) -> None:
    node = lab.start(lab.add_host(1))
    first, second = node.guests
    addresses = node.on.run("nsenter", "--target", str(node.holder), "--net", "ip", "-6", "address").stdout
    assert addresses == ""
    answers = first.run("ping", "-6", "-n", "-c2", "-W1", "ff02::1%eth0").stdout
    # the other guest is there (positive control); nobody else is
    link_local = second.sh("ip -6 -br address show eth0").split()[2].partition("/")[0]
    senders = {line.split()[3].rstrip(":").partition("%")[0] for line in answers.splitlines() if " bytes from " in line}
    own = first.sh("ip -6 -br address show eth0").split()[2].partition("/")[0]
    assert senders - {own} <= {link_local}


@pytest.mark.parametrize("queue_ct", [1, 2])
def test_a_false_source_address_is_dropped(lab: Lab, queue_ct: int) -> None:
    """Whatever the queue is that a packet takes: filters are those of the link."""
    nodes = [lab.start(lab.add_host(number), number, 1, host_ct=2, queue_ct=queue_ct) for number in (1, 2)]
    join(nodes)
    (here,), (there,) = (node.guests for node in nodes)
    there.sh("ip route replace default via 172.22.2.254")
    assert here.pings(there.ip)
    for false in ("172.22.2.9", "10.99.0.1", "172.22.3.1"):
        here.sh(f"ip address replace {false}/32 dev lo")
        before = there.sh("awk '/^Icmp:/ {print $2}' /proc/net/snmp")
        for _ in range(queue_ct):
            here.run("ping", "-n", "-c1", "-W1", "-I", false, there.ip)
        assert there.sh("awk '/^Icmp:/ {print $2}' /proc/net/snmp") == before, false


def in_uplink(node: Node, *argv: str, text: str = "") -> str:
    """What root prints in the namespace under the tunnel, where a child of the holder sits."""
    (sitter,) = Path(f"/proc/{node.holder}/task/{node.holder}/children").read_text().split()
    words = ("nsenter", "--target", sitter, "--net", *argv)
    return subprocess.run(words, input=text, capture_output=True, text=True, timeout=20, check=True).stdout


def test_a_stranger_cannot_inject_into_the_tunnel(lab: Lab) -> None:
    """A VXLAN packet from a host outside of the cluster, with the right number and port, does not arrive.

    Nor does it with either of the two tables gone that keep it out. With both gone it does.
    """
    nodes = [lab.start(lab.add_host(number), number, 1, host_ct=2) for number in (1, 2)]
    peers = join(nodes, vni=77)
    stranger = lab.add_host(3)
    _, address, port = peers[0]
    stranger.sh(
        f"ip link add vx type vxlan id 77 dstport {port} remote {address} local 10.99.0.3;"
        " ip link set vx up; ip address add 172.22.2.99/32 dev vx; ip route add 172.22.1.0/24 dev vx;"
        " ip neigh add 172.22.1.1 lladdr 02:01:ac:16:01:fe dev vx"
    )
    guest: Guest = nodes[0].guests[0]
    assert nodes[1].guests[0].pings(guest.ip)

    def arrives() -> bool:
        before = guest.sh("awk '/^Icmp:/ {print $2}' /proc/net/snmp")
        stranger.run("ping", "-n", "-c1", "-W1", "-I", "172.22.2.99", guest.ip)
        return guest.sh("awk '/^Icmp:/ {print $2}' /proc/net/snmp") != before

    assert not arrives()
    for family, name in (("inet", "chslurm"), ("netdev", "chslurm_tunnel")):
        rules = in_uplink(nodes[0], "nft", "list", "ruleset")
        in_uplink(nodes[0], "nft", "delete", "table", family, name)
        assert not arrives(), family
        in_uplink(nodes[0], "nft", "-f", "-", text=f"flush ruleset\n{rules}")
    in_uplink(nodes[0], "nft", "flush", "ruleset")
    assert arrives()


@pytest.mark.skipif(not sends_from_one_socket(), reason="this pasta leaves the port open, which is told to the user")
def test_a_local_user_cannot_take_the_port_of_the_tunnel(lab: Lab) -> None:
    """Nobody else gets the tunnel's port on a node: neither its datagrams, nor its name to send under."""
    hosts = [lab.add_host(number) for number in (1, 2)]
    nodes = [lab.start(host, number, 1, host_ct=2) for number, host in enumerate(hosts, 1)]
    reserved = [(number, *node.ask("reserve", toward="10.99.0.254")) for number, node in enumerate(nodes, 1)]
    places = ("10.99.0.1", "0.0.0.0", "::", "::ffff:10.99.0.1")
    # positive control: where sharing is allowed, whoever binds more specifically takes all
    hosts[0].serve("owner", "udp-shared", 7000)
    hosts[0].serve("thief", "udp-shared", 7000, places[0])
    assert lab.outside.asks("udp", places[0], 7000) == "thief"
    _, address, port = reserved[0]
    assert address == places[0]
    assert [place for place in places if hosts[0].tries_to_serve("thief", "udp-shared", port, place)] == []
    for node in nodes:
        node.ask("open_tunnel", peers=reserved, vni=9, mtu=1500)
    assert [place for place in places if hosts[0].tries_to_serve("thief", "udp-shared", port, place)] == []
    assert nodes[1].guests[0].pings(nodes[0].guests[0].ip)


def test_a_port_that_a_stranger_shares_is_noticed(lab: Lab) -> None:
    lab.outside.serve("stranger", "udp", 7000)
    look = "import sys; from chslurm.host.tunnelport import check_owner; check_owner(int(sys.argv[1]))"
    user = (
        "setpriv",
        "--reuid",
        str(USER),
        "--clear-groups",
        "env",
        f"PYTHONPATH={PACKAGE}",
        sys.executable,
        "-c",
        look,
    )
    assert "the user with uid 0 has bound UDP port 7000" in lab.outside.run(*user, "7000").stderr
    assert lab.outside.run(*user, "7001").returncode == 0


def test_pasta_opens_namespaces_as_its_apparmor_profile_allows(lab: Lab) -> None:
    nodes = [lab.start(lab.add_host(number), number, 1, host_ct=2) for number in (1, 2)]
    join(nodes)
    words = Path(f"/proc/{nodes[0].helpers()['joiner']}/cmdline").read_text().split("\0")
    paths = [word for word in words if word.startswith("/proc/")]
    assert len(paths) == 2
    assert all(re.fullmatch(r"/proc/[0-9]+/ns/(net|user)", path) for path in paths), paths


def test_two_clusters_of_two_users_on_the_same_hosts(lab: Lab) -> None:
    """Both use the same addresses; a guest meets its own cluster only."""
    hosts = [lab.add_host(1), lab.add_host(2)]
    clusters = []
    for user, vni in ((USER, 1), (OTHER_USER, 1)):
        nodes = [lab.start(host, number, 1, host_ct=2, user=user) for number, host in enumerate(hosts, 1)]
        join(nodes, vni=vni)
        nodes[1].guests[0].serve(f"cluster of {user}", "tcp", 7000)
        clusters.append((user, nodes))
    for user, nodes in clusters:
        assert nodes[0].guests[0].asks("tcp", "172.22.2.1") == f"cluster of {user}"


def test_a_site_network_with_the_same_addresses(lab: Lab) -> None:
    """Hosts that live in 172.22.0.0/16 themselves are no obstacle, and no hole."""
    hosts = [lab.add_host(1), lab.add_host(2)]
    for number, host in enumerate(hosts, 1):
        host.sh(f"ip address add 172.22.{number}.1/16 dev eth0")
        host.serve("host", "tcp", 7000)
    nodes = [lab.start(host, number, 1, host_ct=2) for number, host in enumerate(hosts, 1)]
    join(nodes, toward="172.22.9.9")
    (here,), (there,) = (node.guests for node in nodes)
    assert here.pings(there.ip, 1450)
    assert here.asks("tcp", there.ip) == ""
    there.serve("guest", "tcp", 7000)
    assert here.asks("tcp", there.ip) == "guest"


def test_hosts_without_a_default_route(lab: Lab) -> None:
    hosts = [lab.add_host(number, default_route=False) for number in (1, 2)]
    nodes = [lab.start(host, number, 1, host_ct=2) for number, host in enumerate(hosts, 1)]
    join(nodes)
    assert reach(nodes[0].guests[0], nodes[1].guests[0])


def test_tools_enter_as_the_user(lab: Lab) -> None:
    nodes = [lab.start(lab.add_host(number), number, 1, host_ct=2) for number in (1, 2)]
    join(nodes)
    nodes[1].guests[0].serve("guest", "tcp", 22)
    assert nodes[0].tool_asks("tcp", nodes[1].guests[0].ip, 22) == "guest"
    assert nodes[0].tool_asks("tcp", nodes[1].guests[0].ip, 22, user=OTHER_USER) == ""
