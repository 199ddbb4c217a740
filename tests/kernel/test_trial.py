# SPDX-License-Identifier: Apache-2.0
"""Filters are taken away for a check of the network, family by family, and come back as they were."""

from __future__ import annotations

import subprocess

from lab import Lab, Node, join

from chslurm.filters import Family


def rules_of(node: Node) -> dict[str, str]:
    """The ruleset of each namespace of the holder, by its name."""
    children = f"/proc/{node.holder}/task/{node.holder}/children"
    sitter = node.on.sh(f"cat {children}").split()[0]
    return {
        name: subprocess.run(
            ["nsenter", "--target", pid, "--net", "nft", "-s", "list", "ruleset"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name, pid in (("guests", str(node.holder)), ("uplink", sitter))
    }


def families_of(rules: str) -> set[str]:
    return {line.split()[1] for line in rules.splitlines() if line.startswith("table ")}


def test_families_go_and_come_back(lab: Lab) -> None:
    nodes = [lab.start(lab.add_host(number), number, 2, host_ct=2) for number in (1, 2)]
    join(nodes)
    one, whole = nodes[0], rules_of(nodes[0])
    assert families_of(whole["guests"]) == {"inet", "netdev", "bridge"}
    assert families_of(whole["uplink"]) == {"inet", "netdev"}
    for without in ([], ["netdev"], ["netdev", "bridge"], [], list(Family)):
        one.ask("filter_without", families=without)
        for name, rules in rules_of(one).items():
            assert families_of(rules) == families_of(whole[name]) - set(without)
    one.ask("filter_without", families=[])
    assert rules_of(one) == whole
    assert nodes[0].guests[0].pings(nodes[1].guests[0].ip)


def test_what_filters_keep_back_arrives_without_them(lab: Lab) -> None:
    one = lab.start(lab.add_host(1), 1, 2)
    liar, victim = one.guests
    liar.sh("ip address replace 172.22.1.77/32 dev lo")
    heard = "awk '/^Icmp:/ {print $2}' /proc/net/snmp | tail -1"
    for without, arrives in (([], False), (["netdev"], False), (["bridge"], False), (["netdev", "bridge"], True)):
        one.ask("filter_without", families=without)
        before = victim.sh(heard)
        liar.run("ping", "-n", "-c1", "-W1", "-I", "172.22.1.77", victim.ip)
        assert (victim.sh(heard) != before) is arrives, without
