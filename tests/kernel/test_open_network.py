# SPDX-License-Identifier: Apache-2.0
"""Networks of jobs attacked at their TAPs, as a Prolog does: with filters nothing arrives, without them all does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from joblab import OTHER_USER, USER, SlurmNode, add_nodes
from lab import Lab

from chslurm.addresses import make_layout, make_mac
from chslurm.frames import IP, make_frame, make_udp
from chslurm.isolation import make_vxlan
from chslurm.jobnet import JobNames

JOB, OPEN_JOB = 3000017, 3000018
SETTINGS = "JOBS=partition:vm\nOPEN=partition:vmopen\nTAPS=3"
TWO = "cn[1-2]"

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def nodes(lab: Lab) -> list[SlurmNode]:
    return add_nodes(lab, 2, SETTINGS)


@pytest.fixture
def node(nodes: list[SlurmNode]) -> SlurmNode:
    """The second of two nodes, with a network of either kind."""
    node = nodes[1]
    for job, partition in ((JOB, "vm"), (OPEN_JOB, "vmopen")):
        done = node.prolog(job, TWO, SLURM_JOB_PARTITION=partition)
        assert (done.returncode, done.stderr) == (0, "")
    return node


def check(node: SlurmNode, job: int, *options: str, user: int = USER) -> Done:
    words = ("env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", f"SLURM_JOB_ID={job}", f"SLURMD_NODENAME={node.name}")
    return node.as_user(user, *words, "/run/bin/chslurm", "net", "check", "--taps", *options)


def rows_of(done: Done) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def test_with_filters_nothing_arrives_and_without_them_all_of_it_does(node: SlurmNode) -> None:
    first = check(node, JOB, "--json")
    assert first.returncode == 0, first.stdout + first.stderr
    tried = [row for row in rows_of(first) if row["verdict"] != "not tried"]
    assert {row["id"] for row in tried} == {"L1", "L2", *(f"S{number}" for number in range(1, 7)), "S8", "S9"}
    attacks = [row for row in tried if row["id"][0] == "S"]
    assert {(row["arrived"], row["control"]) for row in attacks} == {("nowhere", "filters are root's")}

    node.host.sh(f"cat >/run/check.json <<'END'\n{first.stdout}END")
    second = check(node, OPEN_JOB, "--json", "--control-for", "/run/check.json")
    assert second.returncode == 0, second.stdout + second.stderr
    merged = rows_of(second)
    assert [(row["id"], row["verdict"]) for row in merged] == [(row["id"], row["verdict"]) for row in rows_of(first)]
    for row in (row for row in merged if row["id"][0] == "S" and row["verdict"] == "ok"):
        assert row["control"] == f"open network: {row['sent']} of {row['sent']}", row
    assert json.loads(second.stdout)["control_hosts"] == [node.name]


def test_one_broken_place_is_no_harm_two_are_found(node: SlurmNode) -> None:
    table = JobNames(JOB).table
    for gone, status in (("netdev", 0), ("bridge", 1)):
        node.host.sh(f"nft delete table {gone} {table}")
        if gone == "bridge":
            node.host.sh(f"nft delete table bridge {table}_again")
        done = check(node, JOB, "--short", "--json")
        assert done.returncode == status, done.stdout + done.stderr
    failed = {row["id"]: row["arrived"] for row in rows_of(done) if row["verdict"] == "FAILED"}
    assert set(failed) >= {"S1", "S2", "S3", "S4", "S5", "S8"}
    assert "TAP 2 (" in failed["S1"]
    assert f"gateway of {node.name} (" in failed["S8"]


def test_a_control_is_none_when_its_network_has_filters(node: SlurmNode) -> None:
    """Nor is a network without filters good for anything else; nor are those of others."""
    done = check(node, OPEN_JOB)
    assert (done.returncode, "root's has no filters" in done.stderr) == (70, True)
    done = check(node, JOB, "--control-for", "/dev/null")
    assert (done.returncode, "root's has filters, a control needs one without" in done.stderr) == (70, True)
    done = check(node, JOB, user=OTHER_USER)
    assert (done.returncode, "made by root: Operation not permitted" in done.stderr) == (70, True)
    done = check(node, 3000019)
    assert (done.returncode, "root has made none for it on this node" in done.stderr) == (70, True)


def test_the_node_itself_takes_no_part_in_an_open_network(nodes: list[SlurmNode], node: SlurmNode) -> None:
    """What is left of the rules keeps guests without filters from the node, and from all that it leads to."""
    (guest,) = node.boot(OPEN_JOB, 2, 2, [1])
    names = JobNames(OPEN_JOB)
    node.host.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0")
    mac = node.host.sh(f"ip -br link show {names.bridge} | awk '{{print $3}}'").strip()
    guest.sh(f"ip route replace 10.99.0.0/24 dev eth0; ip neigh replace 10.99.0.2 lladdr {mac} dev eth0 nud permanent")
    guest.sh(f"ip neigh replace 10.99.0.1 lladdr {mac} dev eth0 nud permanent")
    count = "awk '/^Icmp:/ {n = $2} END {print n}' /proc/net/snmp"

    def arrives() -> list[int]:
        before = [int(node.host.sh(count)) for node in nodes]
        for place in ("10.99.0.1", "10.99.0.2"):
            guest.run("ping", "-n", "-c3", "-i0.2", "-W1", place)
        return [int(node.host.sh(count)) - had for node, had in zip(nodes, before, strict=True)]

    tables = node.host.sh("nft list tables").splitlines()
    assert [line.split()[1] for line in tables if names.table in line] == ["inet", "inet"]
    assert arrives() == [0, 0]
    node.host.sh(f"nft delete table inet {names.table}; nft delete table inet {names.table}_again")
    assert min(arrives()) >= 3  # positive control


def begin_checked(node: SlurmNode, job: int, partition: str) -> Done:
    environment = node.environment(
        job, TWO, USER, SLURM_JOB_PARTITION=partition, PYTHONPATH="/nowhere", PATH="/nowhere"
    )
    process = node.start("prolog-check", environment)
    out, err = process.communicate(timeout=30)
    return Done(process.args, process.returncode, out, err)


def test_a_prolog_attacks_what_it_has_made_before_the_job_starts(nodes: list[SlurmNode]) -> None:
    """As a process of the job's user; without rules the job does not start, unless it is to have none."""
    node = nodes[1]
    for job, partition in ((JOB, "vm"), (OPEN_JOB, "vmopen"), (3000019, "other")):
        began = time.monotonic()
        done = begin_checked(node, job, partition)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert time.monotonic() - began < 10
    assert node.epilog(JOB).returncode == 0
    # an nft that loads nothing for frames
    node.host.hide_by("nft", 'sed "/^table netdev/,/^}/d; /^table bridge/,/^}/d" | $real -f -')
    done = begin_checked(node, JOB, "vm")
    node.host.show_again("nft")
    assert (done.returncode, "it arrived" in done.stderr) == (1, True), done.stderr
    assert "TAP 2 (" in done.stderr
    for job in (JOB, OPEN_JOB):
        assert node.epilog(job).returncode == 0


def test_an_epilog_removes_it(node: SlurmNode) -> None:
    for job in (JOB, OPEN_JOB):
        assert node.epilog(job).returncode == 0
    assert "ch" not in node.host.sh("ls /run/netns; nft list tables; ip -br link | grep ^ch || true")


SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.bind(("", 0))
    try:
        sender.sendto(bytes.fromhex(sys.argv[3]), (sys.argv[1], int(sys.argv[2])))
        print("sent")
    except PermissionError:
        print("refused")
"""


@pytest.mark.parametrize("user", [USER, OTHER_USER])
def test_a_user_of_a_node_can_forge_into_an_open_tunnel_alone(nodes: list[SlurmNode], user: int) -> None:
    """By the very datagram with which a check does it; the open network is the control of the other."""
    for job, partition in ((JOB, "vm"), (OPEN_JOB, "vmopen")):
        names, layout = JobNames(job), make_layout(2)
        for node in nodes:
            assert node.prolog(job, TWO, SLURM_JOB_PARTITION=partition).returncode == 0
        (guest,) = nodes[1].boot(job, 2, 2, [1])
        inner = make_frame(
            make_mac(layout.gateway(2), kind=1),
            make_mac(layout.gateway(1), kind=1),
            IP,
            make_udp(str(layout.guest(1, 1).ip), str(guest.ip), (4000, 7000), b"forged"),
        )
        payload = make_vxlan(names.vni, inner)
        before = int(guest.sh("awk '/^Udp:/ {n = $3} END {print n}' /proc/net/snmp"))
        said = nodes[0].as_user(user, sys.executable, "-c", SEND, "10.99.0.2", "299", payload.hex()).stdout.strip()
        time.sleep(0.5)
        arrived = int(guest.sh("awk '/^Udp:/ {n = $3} END {print n}' /proc/net/snmp")) - before
        assert (said, arrived) == (("sent", 1) if job == OPEN_JOB else ("refused", 0))
        for node in nodes:
            assert node.epilog(job).returncode == 0
