# SPDX-License-Identifier: Apache-2.0
"""The path MTU is what really passes, also where a device in the middle drops without a word."""

from __future__ import annotations

import os
import signal
import time

import pytest
from lab import Lab

pytestmark = pytest.mark.quick


def measure(lab: Lab, mtu: int, other_mtu: int) -> tuple[int, float]:
    """What host 1 finds toward host 2, and the seconds it took."""
    nodes = [lab.start(lab.add_host(1, mtu), 1, 1, host_ct=2), lab.start(lab.add_host(2, other_mtu), 2, 1, host_ct=2)]
    peers = [(number, *node.ask("reserve", toward="10.99.0.254")) for number, node in enumerate(nodes, 1)]
    found, elapsed_s = nodes[0].ask("probe_mtu", peer=peers[1])
    return found, elapsed_s


@pytest.mark.parametrize("mtu", [1400, 1500, 9000])
def test_a_clean_path_costs_one_round_trip(lab: Lab, mtu: int) -> None:
    found, elapsed_s = measure(lab, mtu, mtu)
    assert found == mtu
    assert elapsed_s < 0.2


@pytest.mark.parametrize(("mtu", "narrow"), [(1500, 1400), (9000, 1500), (9000, 8999), (1500, 1333), (9000, 577)])
def test_a_silent_narrow_place_is_found_exactly(lab: Lab, mtu: int, narrow: int) -> None:
    """A bridge drops what does not fit the next link, and tells nobody."""
    found, elapsed_s = measure(lab, mtu, narrow)
    assert found == narrow
    assert elapsed_s < 1.5


def test_a_peer_that_is_late_is_waited_for(lab: Lab) -> None:
    """A host whose guests take all of its processor comes late to its answers."""
    nodes = [lab.start(lab.add_host(number, mtu), number, 1, host_ct=2) for number, mtu in ((1, 9000), (2, 1500))]
    peers = [(number, *node.ask("reserve", toward="10.99.0.254")) for number, node in enumerate(nodes, 1)]
    os.kill(nodes[1].process.pid, signal.SIGSTOP)
    nodes[0].send("probe_mtu", peer=peers[1], patience_s=20)
    time.sleep(2.5)
    os.kill(nodes[1].process.pid, signal.SIGCONT)
    found, elapsed_s = nodes[0].read()["answer"]
    assert found == 1500
    assert 2 < elapsed_s < 6


def test_a_peer_that_does_not_answer_is_named(lab: Lab) -> None:
    node = lab.start(lab.add_host(1), 1, 1, host_ct=2)
    node.ask("reserve", toward="10.99.0.254")
    node.send("probe_mtu", peer=(2, "10.99.0.254", 9), patience_s=1)
    with pytest.raises(AssertionError, match=r"host 2 \(10.99.0.254\) did not answer on UDP port 9 for 1 s"):
        node.read()


def test_a_peer_without_a_route_is_told_plainly(lab: Lab) -> None:
    node = lab.start(lab.add_host(1, default_route=False), 1, 1, host_ct=2)
    node.ask("reserve", toward="10.99.0.254")
    node.send("probe_mtu", peer=(2, "192.0.2.1", 9))
    with pytest.raises(AssertionError, match=r"can't reach 192.0.2.1: Network is unreachable; all hosts need IPv4"):
        node.read()
