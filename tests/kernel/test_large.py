# SPDX-License-Identifier: Apache-2.0
"""A cluster of 10,000 hosts, of which two are there: filters, routes, neighbours and forwarding entries of all."""

from __future__ import annotations

from ipaddress import IPv4Address

from lab import Lab, Node

HOSTS = 10_000
PATIENCE_S = 60.0
"""A quiet machine needs 1 s; others may be using this one."""


def ip_of(host: int) -> str:
    return str(IPv4Address("10.98.0.0") + host)


def count(node: Node, what: str, *argv: str) -> int:
    """How many lines of a command's output in the guests' namespace have the word."""
    argv = ("nsenter", "--target", str(node.holder), "--net", *argv)
    return sum(what in line.split() for line in node.on.run(*argv).stdout.splitlines())


def test_the_first_and_the_last_of_10_000_hosts(lab: Lab) -> None:
    numbers = (1, HOSTS)
    nodes = [lab.start(lab.add_host(at), number, 2, host_ct=HOSTS) for at, number in enumerate(numbers, 1)]
    real = {number: node.ask("reserve", toward="10.99.0.254") for number, node in zip(numbers, nodes, strict=True)}
    peers = [(host, *real.get(host, (ip_of(host), 40_000))) for host in range(1, HOSTS + 1)]
    for node in nodes:
        elapsed_s = node.ask("open_tunnel", peers=peers, vni=4242, mtu=1500)
        print(f"joined {HOSTS} hosts in {elapsed_s:.2f} s")
        assert elapsed_s < PATIENCE_S
        assert count(node, "via", "ip", "-4", "route") == HOSTS - 1
        assert count(node, "vx0", "ip", "-4", "neigh", "show", "nud", "permanent") == HOSTS - 1
        assert count(node, "dst", "bridge", "fdb", "show", "dev", "vx0") == HOSTS - 1
        log = node.logs()
        assert len(log) < 100_000, "thousands of lines of every host, in the one job directory"
        assert "9999 lines" in log
    (first, second), (far, _) = (node.guests for node in nodes)
    assert str(far.address.ip) == "172.31.214.193"
    assert first.pings(second.ip)
    assert first.pings(far.ip)
    assert first.pings(far.address.gateway)
    far.serve("far", "tcp", 7000)
    assert first.asks("tcp", far.ip) == "far"
    # Not in the cluster, though the link is: what claims to come from there is dropped (positive control: from the own)
    for source, arrives in ((first.ip, True), ("172.31.214.254", False), ("172.21.1.1", False)):
        first.sh(f"ip address replace {source}/32 dev lo")
        before = far.sh("awk '/^Icmp:/ {print $2}' /proc/net/snmp")
        first.run("ping", "-n", "-c1", "-W1", "-I", source, far.ip)
        assert (far.sh("awk '/^Icmp:/ {print $2}' /proc/net/snmp") != before) == arrives, source
