# SPDX-License-Identifier: Apache-2.0
"""What guests of a network that root made may send and get, frame by frame: with each part of the rules broken, too."""

from __future__ import annotations

import pytest
from lab import Lab
from mutation import find_idle_rules, find_leaks, make_changes
from siteshots import make_site_forbidden, make_site_rightful
from sitewire import SiteWire

NOT_NEEDED_BY_SHOTS = tuple(
    f"{place}: {words}"
    for table in ("inet chslurm_w", "inet chslurm_w_again")
    for place, words in (
        (f"{table} forward", 'iifname "chbr0" oifname "chbr0"'),  # for when iptables see what bridges carry
        (f"{table} forward", 'iifname "out0" ct status dnat'),  # what others have mapped
        (f"{table} input", 'iifname "chbr0" ip saddr 172.22.1.0/24 ip daddr 172.22.1.254 ct state'),  # of TCP
    )
) + tuple(
    f"{table} to_gateway: meta l4proto {{ tcp, udp }} th dport {{ 17001"  # likewise
    for table in ("netdev chslurm_w", "bridge chslurm_w")
)
"""Rules that let pass what no shot shows; see test_site_guests."""

NEEDS_NAT = frozenset(
    {
        "UDP to the outside",
        "the outside's answer",
        "TCP to the gateway's port 22",
        "TCP to the gateway's port 53",
        "UDP to the gateway's port 53",
    }
)
"""What only the table can pass that hides guests, and leads them to the relays."""


def test_what_is_right_arrives_what_is_forbidden_does_not_but_without_filters(lab: Lab) -> None:
    wire = SiteWire(lab)
    rightful, forbidden = make_site_rightful(), make_site_forbidden()
    assert len({shot.name for shot in forbidden}) == len(forbidden)
    assert wire.fire(rightful) == {shot.name: shot.reaches for shot in rightful}
    assert find_leaks(wire, forbidden) == {}
    wire.nft("flush ruleset")
    assert sorted(find_leaks(wire, forbidden)) == sorted(shot.name for shot in forbidden)


def test_the_same_where_the_bridge_asks_iptables(lab: Lab) -> None:
    """As container engines want it: br_netfilter. It waits for the other parts of a fragment."""
    wire = SiteWire(lab, iptables_ask=True)
    rightful = [shot for shot in make_site_rightful() if shot.name != "later fragment"]
    assert wire.fire(rightful) == {shot.name: shot.reaches for shot in rightful}
    assert find_leaks(wire, make_site_forbidden()) == {}


def test_no_rule_chain_or_table_is_what_everything_hangs_on(lab: Lab) -> None:
    """Each rule deleted, each chain let everything pass, each table gone: the forbidden stays out."""
    wire = SiteWire(lab)
    loaded = [rule for rule in wire.read_rules("rule") if rule["table"] != "other"]
    wire.restore()
    rules = wire.read_rules("rule")
    assert [{**rule, "handle": 0} for rule in rules] == [{**rule, "handle": 0} for rule in loaded]
    changes = list(make_changes(wire, NOT_NEEDED_BY_SHOTS, {"inet chslurm_w": NEEDS_NAT}))
    assert find_idle_rules(wire, changes, make_site_forbidden(), make_site_rightful, wire.restore) == []
    assert wire.read_rules("rule") == rules


@pytest.mark.parametrize("chain", ["forward", "input", "output"])
def test_what_two_chains_say_is_not_said_by_others(lab: Lab, chain: str) -> None:
    """Where one broken chain is not enough, both of the packets' tables are: the test above can see leaks."""
    wire = SiteWire(lab)
    wire.nft("".join(f"insert rule inet {table} {chain} accept\n" for table in ("chslurm_w", "chslurm_w_again")))
    assert find_leaks(wire, make_site_forbidden()) != {}
