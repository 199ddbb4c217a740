# SPDX-License-Identifier: Apache-2.0
"""Packets as large as the real path allows, and no larger, between guests on different nodes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from realbox import Box

pytestmark = [pytest.mark.real, pytest.mark.alone]

NODES = ("cn001", "cn002", "cn003")
VXLAN, WIREGUARD = 50, 60  # bytes that they add over IPv4
HEADERS = 28  # IPv4 and ICMP

PROBE = f"""#!/bin/bash
# How large a packet may be: by the interface, by trying, and by trying with interfaces that claim one byte more.
[ "$CH_GUEST_ID" = 0 ] || exit 0
mtu=$(cat /sys/class/net/eth0/mtu)
try() {{ # WHAT BYTES: a packet of so many bytes, never in fragments
    ping -M do -c 2 -i 0.3 -W 2 -s $(($2 - {HEADERS})) chgu1 >/tmp/ping 2>&1 && echo "$1 passed" || echo "$1 lost"
}}
echo "mtu $mtu, $(ssh chgu1 cat /sys/class/net/eth0/mtu)"
try "largest" "$mtu"
try "larger" $((mtu + 1))
grep -o 'message too long' /tmp/ping | uniq
ssh chgu1 sudo ip link set eth0 mtu $((mtu + 1))
sudo ip link set eth0 mtu $((mtu + 1))
try "larger, forced" $((mtu + 1))
try "largest, again" "$mtu"
"""


@contextmanager
def start_path(mtu: int, switch_mtu: int) -> Iterator[None]:
    """Give the nodes' own links and those of the switch between them another MTU, until the end of the block."""
    set_mtu(mtu, switch_mtu)
    try:
        yield
    finally:
        set_mtu(1500, 1500)


def set_mtu(mtu: int, switch_mtu: int) -> None:
    links = [
        *((f"chbox-{node}", "eth0", mtu) for node in NODES),
        *(("chbox-login", node, switch_mtu) for node in NODES),
    ]
    for netns, link, size in [*links, ("chbox-login", "eth0", switch_mtu)]:
        subprocess.run(["ip", "-n", netns, "link", "set", link, "mtu", str(size)], check=True)


@pytest.mark.parametrize(
    ("mtu", "switch_mtu"),
    [
        pytest.param(1500, 1500, id="1500", marks=pytest.mark.long),
        pytest.param(9000, 9000, id="9000", marks=pytest.mark.long),
        pytest.param(1500, 1400, id="1500 that silently is 1400"),
    ],
)
def test_largest_packet_between_guests_is_that_of_the_path(box: Box, mtu: int, switch_mtu: int) -> None:
    script = box.write("probe.sh", PROBE)
    with start_path(mtu, switch_mtu):
        job = box.sbatch("chrun", "--jobdir", "c", "--job", script, box.image, nodes=2)
        job.wait()
    joined = re.findall(
        r"hosts are joined by (?:(WireGuard), which|VXLAN, since cn\d+ .*\(.+\); VXLAN neither)", job.output
    )
    assert len(joined) == 1, job.output
    guest_mtu = switch_mtu - (WIREGUARD if joined[0] else VXLAN)
    assert (job.dir / "out" / "0_job.out").read_text().splitlines() == [
        f"mtu {guest_mtu}, {guest_mtu}",
        "largest passed",
        "larger lost",
        "message too long",
        "larger, forced lost",
        "largest, again passed",
    ]
    assert {event["mtu"] for event in job.events() if event["kind"] == "fabric_ready"} == {guest_mtu}


def test_a_host_that_cannot_make_wireguard_is_named(box: Box) -> None:
    trial = ["unshare", "--net", "ip", "link", "add", "try0", "type", "wireguard"]
    if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
        pytest.skip("this kernel has WireGuard")
    job = box.sbatch("chrun", "--tunnel", "wireguard", "--jobdir", "c", box.image, nodes=2)
    assert job.wait()["ExitCode"] == "70:0"
    summary = job.summary()
    assert summary["cause"] == "machinery"
    assert re.match(r"node cn\d+: can't make a WireGuard device: \w.*; use --tunnel auto, or ask", summary["text"]), (
        summary
    )
