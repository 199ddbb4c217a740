# SPDX-License-Identifier: Apache-2.0
"""Networks of SLURM jobs that root's prolog joins by WireGuard, and what it says where it can't.

Where the kernel has no WireGuard only the latter is tried; `tests/real/test_wireguard.py` runs the rest in a guest.
"""

from __future__ import annotations

import base64
import socket
import sys

import pytest
from joblab import OTHER_USER, USER, SlurmNode, add_nodes
from lab import Guest, Lab
from test_wireguard import arrives, forge_vxlan, has_wireguard, needs_wireguard

from chslurm.host.jobdevice import is_taken
from chslurm.jobnet import JobNames

JOB = 3000017
KEY_FILE = "/etc/charliecloud/network.key"
SETTINGS = f"TAPS=2\nKEY={KEY_FILE}"
SECRET, OTHER_SECRET = (base64.b64encode(bytes(range(first, first + 32))).decode() for first in (0, 100))
PORT = 200 + JOB % 99
BUDGET_S = 30.0  # of the prolog, under emulation
SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    try:
        sender.sendto(bytes(64), (sys.argv[1], int(sys.argv[2])))
        print("sent")
    except PermissionError:
        print("refused")
"""


def write_key(node: SlurmNode, secret: str = SECRET) -> None:
    node.host.sh(f"umask 077; echo {secret} >{KEY_FILE}")


def add_joined(lab: Lab, count: int = 2, settings: str = SETTINGS) -> list[SlurmNode]:
    nodes = add_nodes(lab, count, settings, BUDGET_S if has_wireguard() else 0.0)
    for node in nodes:
        write_key(node)
    return nodes


def begin(node: SlurmNode, job_id: int = JOB) -> None:
    done = node.prolog(job_id, "cn[1-2]")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def end(node: SlurmNode, before: dict[str, str], job_id: int = JOB) -> None:
    done = node.epilog(job_id)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert node.snapshot() == before


# -- where there is none, or not this time ----------------------------------------------------------------------------


@pytest.mark.skipif(has_wireguard(), reason="this kernel has WireGuard")
def test_a_kernel_without_it_is_told_and_left_as_it_was(lab: Lab) -> None:
    node = add_joined(lab)[0]
    before = node.snapshot()
    done = node.prolog(JOB, "cn[1-2]")
    assert (done.returncode, done.stdout) == (0, "")
    said = f"chslurm: job {JOB} gets no network: can't join nodes by WireGuard: the kernel of this node has none; "
    assert done.stderr.startswith(said)
    assert node.snapshot() == before
    node.write_settings(f"{SETTINGS}\nREQUIRED=yes")
    done = node.prolog(JOB, "cn[1-2]")
    assert (done.returncode, done.stderr.count("\n")) == (70, 1)
    assert "the kernel of this node has none" in done.stderr
    assert node.snapshot() == before
    # what needs no tunnel, or asks for another, has it
    for settings, nodes in ((SETTINGS, "cn1"), (f"{SETTINGS}\nTUNNEL=vxlan", "cn[1-2]")):
        node.write_settings(settings)
        assert node.prolog(JOB, nodes).stderr == ""
        assert JobNames(JOB).bridge in node.snapshot()["links"]
        end(node, before)


def test_a_key_that_others_could_know_is_refused(lab: Lab) -> None:
    node = add_joined(lab)[0]
    before = node.snapshot()
    for harm, why in (
        ("chmod 640", "others than root can read it"),
        ("chmod 602", "others than root can change it"),
        ("chown 65534", "others than root can change it"),
        ("truncate -s 20", "not 32 bytes or more"),
        ("rm", "No such file"),
    ):
        write_key(node)
        node.host.sh(f"{harm} {KEY_FILE}")
        done = node.prolog(JOB, "cn[1-2]")
        assert (done.returncode, why in done.stderr, SECRET[:15] in done.stderr) == (64, True, False), done.stderr
        node.host.sh(f"rm -f {KEY_FILE}")
    assert node.snapshot() == before


def test_addresses_that_the_site_wrote_down_count_in_place_of_names(lab: Lab) -> None:
    node = add_nodes(lab, 2, "TAPS=1\nNODES=/etc/charliecloud/nodes")[0]
    before = node.snapshot()
    node.host.sh("printf '10.99.0.1 cn1\\n10.99.0.7 cn2\\n' >/etc/charliecloud/nodes")
    begin(node)
    assert "dst 10.99.0.7" in node.in_job(JOB, "bridge fdb show dev vx0")
    end(node, before)
    done = node.prolog(JOB, "cn[1-3]")
    assert "can't find the address of cn3: not in /etc/charliecloud/nodes" in done.stderr
    node.host.sh("chmod o+w /etc/charliecloud/nodes")
    assert node.prolog(JOB, "cn[1-2]").returncode == 64
    assert node.snapshot() == before


def test_a_taken_port_is_seen() -> None:
    """Of either family; here, where it does not take WireGuard."""
    for family, anywhere in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")):
        with socket.socket(family, socket.SOCK_DGRAM) as taken:
            try:
                taken.bind((anywhere, 0))
            except OSError:  # this machine has no IPv6
                continue
            port = taken.getsockname()[1]
            assert is_taken(port)
        assert not is_taken(port)


# -- where there is ---------------------------------------------------------------------------------------------------


@needs_wireguard
def test_jobs_joined_by_wireguard(lab: Lab) -> None:
    """One pair of nodes for all of it: it takes long to start inside a guest."""
    nodes = add_joined(lab)
    before = [node.snapshot() for node in nodes]
    here, there = boot_two(nodes)
    for guest in (here, there):
        guest.set_mtu(1440)
    assert there.pings(here.ip, 1440)
    assert here.pings(there.ip)
    assert "mtu=1440 tunnel=wireguard" in nodes[0].host.sh(f"ip link show {JobNames(JOB).bridge}")
    assert nodes[0].host.sh("ip -br link show type wireguard") == ""
    nobody_else_gets_in(lab, nodes, here, there)
    a_port_that_is_taken_is_told(nodes[0])
    for node, was in zip(nodes, before, strict=True):
        end(node, was)


@needs_wireguard
def test_with_another_secret_nothing_passes(lab: Lab) -> None:
    """As another job, or a stranger, would have it."""
    nodes = add_joined(lab)
    write_key(nodes[1], OTHER_SECRET)
    here, there = boot_two(nodes)
    assert not arrives(there, lambda: here.pings(there.ip))
    assert not arrives(here, lambda: there.pings(here.ip))


def boot_two(nodes: list[SlurmNode]) -> tuple[Guest, Guest]:
    """The job's network on both nodes, and a guest on each."""
    for node in nodes:
        begin(node)
    (here,), (there,) = (node.boot(JOB, 2, host, [1]) for host, node in enumerate(nodes, start=1))
    return here, there


def nobody_else_gets_in(lab: Lab, nodes: list[SlurmNode], here: Guest, there: Guest) -> None:
    for uid, port, said in ((USER, PORT, "refused"), (OTHER_USER, PORT, "refused"), (USER, PORT - 1, "sent")):
        assert nodes[0].as_user(uid, sys.executable, "-c", SEND, "10.99.0.2", str(port)).stdout.strip() == said
    # from a strange address, and from node 2's own address and port, which filters let in, without its key
    words = forge_vxlan(here.ip, there.ip).hex()
    for place in (lab.add_host(9), nodes[1].host):
        forging = place.python("forge", PORT, "10.99.0.1", PORT, words)
        assert not arrives(here, lambda forging=forging: forging.communicate(timeout=20))  # type: ignore[misc]
    assert arrives(here, lambda: there.pings(here.ip))


def a_port_that_is_taken_is_told(node: SlurmNode) -> None:
    """By a job whose number is as far away as there are ports."""
    done = node.prolog(JOB + 99, "cn[1-2]")
    assert (done.returncode, f"can't use UDP port {PORT} for WireGuard: it is taken" in done.stderr) == (0, True)
    links = node.host.sh("ip -o link")
    assert (JobNames(JOB).bridge in links, JobNames(JOB + 99).bridge in links) == (True, False)
