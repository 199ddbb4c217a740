# SPDX-License-Identifier: Apache-2.0
"""What guests of a job may send and get where root's prolog has made the network: with each part of it broken, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from firing import Shot
from forbidden import make_forbidden
from jobwire import JOB, JobWire
from lab import Lab
from mutation import find_idle_rules, find_leaks, make_changes

from chslurm.plan import Mode

NOT_NEEDED_BY_SHOTS = (
    f"bridge chslurm_{JOB} input: iifname != @ports accept",  # for other bridges of the node, see test_filters
    f"bridge chslurm_{JOB} output: oifname != @ports accept",
    'inet chslurm forward: iifname "br0" oifname "br0"',  # as in test_filters
    'inet chslurm input: iifname "lo"',
    "inet chslurm input: ct state established,related",
    "netdev chslurm_tunnel to_gateway: tcp flags",
)
"""Rules that let pass what no shot shows."""


@pytest.fixture(scope="module")
def wire() -> Iterator[JobWire]:
    with Lab() as lab:
        yield JobWire(lab)


def make_all_forbidden(wire: JobWire) -> list[Shot]:
    return [*make_forbidden(Mode.CLUSTER), *wire.make_forbidden()]


def test_what_is_right_arrives_what_is_forbidden_does_not_but_without_filters(wire: JobWire) -> None:
    rightful, forbidden = wire.make_rightful(), make_all_forbidden(wire)
    assert wire.fire(rightful) == {shot.name: shot.reaches for shot in rightful}
    assert find_leaks(wire, forbidden) == {}
    for wire.in_job in (True, False):
        wire.nft("flush ruleset")
    leaks = find_leaks(wire, forbidden)
    wire.restore()
    assert sorted(leaks) == sorted(shot.name for shot in forbidden)


@pytest.mark.parametrize("in_job", [False, True], ids=["node", "job"])
def test_no_rule_chain_or_table_is_what_everything_hangs_on(wire: JobWire, in_job: bool) -> None:
    """Each rule deleted, each chain let everything pass, each table gone: the forbidden stays out."""
    wire.restore()
    wire.in_job = in_job
    rules = wire.read_rules("rule")
    changes = list(make_changes(wire, NOT_NEEDED_BY_SHOTS, {}))
    assert find_idle_rules(wire, changes, make_all_forbidden(wire), wire.make_rightful, wire.restore) == []
    assert [{**rule, "handle": 0} for rule in wire.read_rules("rule")] == [{**rule, "handle": 0} for rule in rules]


@pytest.mark.parametrize("chain", ["input", "forward", "output"])
def test_what_two_tables_say_is_not_said_by_others(wire: JobWire, chain: str) -> None:
    """Where one broken chain of the node's is not enough, both are: the test above can see leaks."""
    wire.restore()
    wire.in_job = False
    wire.nft("".join(f"insert rule inet chslurm_{JOB}{more} {chain} accept\n" for more in ("", "_again")))
    through = {
        "input": "VXLAN of a stranger",
        "forward": "VXLAN through the node",
        "output": "a user to the tunnel's port",
    }
    leaks = find_leaks(wire, list(wire.make_forbidden()))
    wire.restore()
    assert through.get(chain, "a user to the tunnel's port") in leaks
