# SPDX-License-Identifier: Apache-2.0
"""What guests may send and get, frame by frame: with the rules as they are, without any, with each of them broken."""

from __future__ import annotations

import shlex

import pytest
from forbidden import make_forbidden, make_random
from lab import Lab, Namespace, join
from mutation import find_idle_rules, make_changes
from shots import make_large, make_rightful
from wire import Wire

from chslurm.frames import BROADCAST, LLDP, make_frame
from chslurm.plan import Mode

NOT_NEEDED_BY_SHOTS = (
    'inet chslurm forward: iifname "br0" oifname "br0"',  # for when the host's iptables see what bridges carry
    'inet chslurm input: iifname "lo"',
    "inet chslurm input: ct state established,related",  # for tools that enter, see test_cluster
    "netdev chslurm_tunnel to_gateway: tcp flags",  # likewise
    "netdev chslurm_outside arriving: ether type arp",  # for the outside, see test_workstation
    "netdev chslurm_outside arriving: arp",
)
"""Rules that let pass what no shot shows."""

NEEDS_NAT = frozenset({"the outside's answer"})
"""What only the table can pass that knows which guest an answer is for."""


@pytest.fixture(params=[Mode.CLUSTER, Mode.WORKSTATION], ids=str)
def mode(request: pytest.FixtureRequest) -> Mode:
    mode: Mode = request.param
    return mode


@pytest.fixture
def wire(lab: Lab, mode: Mode) -> Wire:
    return Wire(lab, mode)


def test_what_is_right_arrives_where_it_should_and_nowhere_else(wire: Wire, mode: Mode) -> None:
    shots = make_rightful(mode)
    assert wire.fire(shots) == {shot.name: shot.reaches for shot in shots}


def test_what_is_forbidden_arrives_nowhere_but_without_filters(wire: Wire, mode: Mode) -> None:
    shots = make_forbidden(mode)
    assert len({shot.name for shot in shots}) == len(shots)
    assert {name: ends for name, ends in wire.fire(shots).items() if ends} == {}
    wire.nft("flush ruleset")
    assert [name for name, ends in wire.fire(shots).items() if not ends] == []


def test_no_rule_chain_or_table_is_what_everything_hangs_on(wire: Wire, mode: Mode) -> None:
    """Each rule deleted, each chain let everything pass, each table gone: the forbidden stays out.

    And what is right: it passes wherever filters have become fewer, and each rule that lets something pass is needed.
    """
    wire.restore()
    rules = wire.read_rules("rule")
    nat = {"inet chslurm": NEEDS_NAT} if mode is Mode.WORKSTATION else {}
    changes = list(make_changes(wire, NOT_NEEDED_BY_SHOTS, nat))
    idle = find_idle_rules(wire, changes, make_forbidden(mode), lambda: make_rightful(mode), wire.restore)
    assert idle == [], "rules that nothing right needs"
    rightful = make_rightful(mode)
    assert wire.fire(rightful) == {shot.name: shot.reaches for shot in rightful}
    assert wire.read_rules("rule") == rules


def test_a_frame_larger_than_links_take_does_not_pass(wire: Wire, mode: Mode) -> None:
    """That is the bridge's own doing: filters can't tell it from what a guest leaves to be cut up by its device."""
    shot = make_large(3000)
    assert wire.fire([shot])[shot.name] == frozenset()
    wire.set_mtu(9000)
    assert wire.fire([shot])[shot.name] == {"guest2"}


def test_no_random_sender_passes(wire: Wire, mode: Mode) -> None:
    assert {name: ends for name, ends in wire.fire(make_random(1000)).items() if ends} == {}


def test_without_a_family_of_filters_guests_still_can_not_lie(wire: Wire, mode: Mode) -> None:
    """Where a kernel has only one of families netdev and bridge."""
    lies = [shot for shot in make_forbidden(mode) if shot.source == "guest1"]
    for family in ("netdev", "bridge"):
        wire.restore()
        tables = [table["name"] for table in wire.read_rules("table") if table["family"] == family]
        wire.nft("".join(f"delete table {family} {name}\n" for name in tables))
        assert {name: ends for name, ends in wire.fire(lies).items() if ends} == {}


def test_links_of_others_in_the_same_namespace_are_left_alone(wire: Wire, mode: Mode) -> None:
    """As in a host's own namespace, where root makes the network: there, too, what is ours is held in."""
    foreign = wire.add_foreign_bridge()
    frame = make_frame(BROADCAST, "02:33:00:00:00:01", LLDP, b"a mark by which it is known")
    wire.restore()
    assert foreign(frame) == b""
    wire.restore(shared=True)
    assert foreign(frame) == frame
    forbidden, rightful = make_forbidden(mode), make_rightful(mode)
    assert {name: ends for name, ends in wire.fire(forbidden).items() if ends} == {}
    assert wire.fire(rightful) == {shot.name: shot.reaches for shot in rightful}


@pytest.mark.parametrize("missing", ["netdev", "bridge"])
def test_a_kernel_without_a_family_of_filters(lab: Lab, missing: str) -> None:
    hosts = [lab.add_host(number) for number in (1, 2)]
    for host in hosts:
        refuse_family(host, missing)
    nodes = [lab.start(host, number, 2, host_ct=2) for number, host in enumerate(hosts, 1)]
    warning = nodes[0].ask("warning")
    assert f"filtered in fewer places: no filters of family {missing} here: " in warning
    assert "Operation not supported" in warning
    join(nodes)
    first, second, far = *nodes[0].guests, nodes[1].guests[0]
    assert first.pings(second.ip)
    assert first.pings(far.ip)


def test_a_kernel_that_has_all_is_not_warned_of(lab: Lab) -> None:
    assert lab.start(lab.add_host(1)).ask("warning") == ""


@pytest.mark.parametrize("missing", [("inet",), ("netdev", "bridge")])
def test_a_kernel_that_can_not_hold_guests_in(lab: Lab, missing: tuple[str, ...]) -> None:
    host = lab.add_host(1)
    refuse_family(host, *missing)
    with pytest.raises(AssertionError, match=r"can't filter what guests send: family .*Operation not supported"):
        lab.start(host)


def refuse_family(host: Namespace, *families: str) -> None:
    """Make nft of this host say what it says where the kernel has no such tables."""
    tables = "|".join(f'*"table {family} "*' for family in families)
    script = f"""#!/bin/sh
rules=$(cat)
case "$rules" in {tables}) echo "Error: Could not process rule: Operation not supported" >&2; exit 1;; esac
printf '%s\\n' "$rules" | /dev/net/nft "$@"
"""
    quoted = shlex.quote(script)
    host.sh(
        f"real=$(readlink -f $(command -v nft)); cp $real /dev/net/nft; printf %s {quoted} >/dev/net/refusing;"
        " chmod 755 /dev/net/nft /dev/net/refusing; mount --bind /dev/net/refusing $real"
    )
