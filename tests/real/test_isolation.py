# SPDX-License-Identifier: Apache-2.0
"""Root in a guest reaches its own cluster and nothing else: no other cluster, no node, no service, no network."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from realbox import Box, Job, start_box, wait_for

pytestmark = [pytest.mark.real, pytest.mark.alone]

OPEN, LOOPBACK = 7801, 7802  # ports of services on each machine: on all its addresses, and on its loopback
PORTS = (22, 53, 111, 6817, 6818, OPEN, LOOPBACK)  # ssh, names, rpcbind, slurmctld, slurmd

NODES = ("10.99.0.1", "10.99.0.2", "10.99.0.3")
LOGIN = ("10.99.0.254", "203.0.113.1")
OUTSIDE = "203.0.113.2"
GATEWAYS = ("172.22.1.254", "172.22.2.254")  # of the hosts on their own bridges: they answer pings
CARRIER = ("172.22.255.2", "172.22.255.100", "10.0.2.2", "10.0.2.3")  # where pasta and slirp4netns have services
OTHERS = ("172.22.1.2", "172.22.3.1", "172.23.1.1")  # guests that this cluster does not have; the other has the first

SERVICE = f"""
import socket, time
open_to_all = socket.create_server(("", {OPEN}))
loopback = socket.create_server(("127.0.0.1", {LOOPBACK}))
print("ready", flush=True)
time.sleep(300)
"""

PROBE = f"""#!/usr/bin/python3
# What answers to root in this guest? Prints JSON: addresses that answer a ping, and those with ports that answer.
import json, socket, subprocess, sys
from concurrent.futures import ThreadPoolExecutor

def ping(address):
    command = ["ping", "-6" if ":" in address else "-4", "-c2", "-i0.5", "-W2", address]
    return subprocess.run(command, capture_output=True).returncode == 0

def knock(address, port):
    with socket.socket() as knocking:
        knocking.settimeout(3)
        try:
            knocking.connect((address, port))
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return ""
        return "open"

open("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "w").write("0")
addresses = sys.argv[1:]
doors = [(address, port) for address in addresses for port in {PORTS}]
with ThreadPoolExecutor(100) as pool:
    answers = pool.map(lambda door: knock(*door), doors)
    pings = pool.map(ping, [*addresses, "ff02::1%eth0", "ff02::2%eth0"])
    found = {{f"{{address}}:{{port}}": answer for (address, port), answer in zip(doors, answers) if answer}}
    pinged = [address for address, answer in zip([*addresses, "ff02::1%eth0", "ff02::2%eth0"], pings) if answer]
print(json.dumps({{"tcp": found, "ping": pinged}}))
"""

JOB = """#!/bin/bash
# Guest 0: who its cluster's addresses are, and what answers, once the test says go. It stays until the test says end.
cd /ch/data1
echo "$1 $CH_GUEST_ID" >/tmp/whoami
[ "$CH_GUEST_ID" = 0 ] || exit 0
until [ -e go ]; do sleep 0.3; done
shift
guests=$(awk '$2 ~ /^chgu[0-9]+$/ { print $1 }' /ch/meta/hosts)
ssh-keyscan -T 60 -t ed25519 $guests 2>/dev/null >keys
for guest in $guests; do echo "$guest $(ssh $guest cat /tmp/whoami)"; done >names
sudo python3 probe.py "$@" >found.new && mv found.new found
until [ -e end ]; do sleep 0.3; done
"""


Found = dict[str, Any]
"""tcp: address and port of every TCP door that answered, and whether it was open; ping: addresses that answered."""


@pytest.fixture
def other(box_program: str) -> Iterator[Box]:
    """The same box as another user has it."""
    with start_box(box_program, os.environ.get("CHSLURM_OTHER_USER", "chother")) as other:
        yield other


@contextmanager
def start_services(box: Box, *machines: str) -> Iterator[None]:
    """Something to be found on each of these machines."""
    with ExitStack() as stack:
        for machine in machines:
            service = stack.enter_context(box.start("python3", "-c", SERVICE, node=machine))
            stack.callback(service.kill)
            assert service.stdout is not None
            assert service.stdout.readline() == "ready\n"
        yield


def prepare(box: Box) -> str:
    """Make the folder `data` with what the job needs; return the job script."""
    (box.folder / "data").mkdir()
    box.write("data/probe.py", PROBE)
    subprocess.run(["chown", "--reference", str(box.folder), str(box.folder / "data")], check=True)
    return box.write("job.sh", JOB)


@contextmanager
def start_job(box: Box, name: str, nodes: int, guests: int, targets: Sequence[str]) -> Iterator[Job]:
    """A cluster on the first nodes, of which others get their share."""
    chrun = ["chrun", "--jobdir", "c", "-n", str(guests), "--job", prepare(box), "--dir", "data", box.image]
    options = (f"--nodelist=cn[001-{nodes:03}]", "--cpus-per-task=1", f"--mem={1300 if guests == nodes else 1900}M")
    job = box.sbatch(*chrun, "--", name, *targets, nodes=nodes, options=options)
    try:
        yield job
    finally:
        box("scancel", job.id)  # if something went wrong


def read(box: Box, name: str) -> str:
    return (box.folder / "data" / name).read_text()


def read_found(box: Box) -> Found:
    """What the probe of a guest found."""
    wait_for(
        (box.folder / "data" / "found").exists, 90, lambda: f"nothing found: {list((box.folder / 'data').iterdir())}"
    )
    found: Found = json.loads(read(box, "found"))
    return found


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_two_clusters_on_the_same_nodes_do_not_see_each_other(box: Box, other: Box, nodes: int) -> None:
    """A guest of A on every node; of B too, and one more on the first."""
    own = ("172.22.1.1", "172.22.2.1")[:nodes]
    theirs = ("172.22.1.1", "172.22.1.2", "172.22.2.1")[: nodes + 1]
    gateways = GATEWAYS[:nodes]
    targets = (*own, *OTHERS, *gateways, *CARRIER, *NODES, *LOGIN, OUTSIDE)
    with (
        start_services(box, "cn001", "cn002", "login", "out"),
        start_job(box, "A", nodes, nodes, targets) as a,
        start_job(other, "B", nodes, nodes + 1, theirs) as b,
    ):
        for job, guest_ct in ((a, nodes), (b, nodes + 1)):
            for guest in range(guest_ct):
                job.wait_event("job_started", guest)
        for job in (a, b):
            job.box.write("data/go", "")
        found_a, found_b = (read_found(job.box) for job in (a, b))
        for job in (a, b):
            job.box.write("data/end", "")
        records = [job.wait() for job in (a, b)]
    assert [record["ExitCode"] for record in records] == ["0:0", "0:0"], a.output + b.output
    assert [record["NodeList"] for record in records] == [("cn001", "cn[001-002]")[nodes - 1]] * 2

    # A reaches A, and hosts of its own answer pings. Everybody else is silent.
    silence = {f"{address}:{port}": "refused" for address in own for port in PORTS if port != 22}
    assert found_a["tcp"] == {**silence, **{f"{address}:22": "open" for address in own}}
    assert sorted(found_a["ping"]) == sorted([*own, *gateways])

    # What A did not find was there: B's guest at 172.22.1.2, and its ssh.
    assert "172.22.1.2" in found_b["ping"]
    assert found_b["tcp"]["172.22.1.2:22"] == "open"

    # The same addresses, other machines: ssh leads to the own guest, whose key no guest of B has.
    assert read(box, "names").splitlines() == [f"{address} A {guest}" for guest, address in enumerate(own)]
    assert read(other, "names").splitlines() == [f"{address} B {guest}" for guest, address in enumerate(theirs)]
    keys = [line.split()[2] for job in (a, b) for line in read(job.box, "keys").splitlines()]
    assert (len(keys), len(set(keys))) == (2 * nodes + 1, 2 * nodes + 1)


@pytest.mark.long  # so does the kernel ring, without guests
def test_workstation_guests_reach_the_outside_but_not_the_hosts_loopback(box: Box) -> None:
    own = "172.22.1.1"
    targets = (own, "172.22.1.254", *CARRIER, *LOGIN, OUTSIDE)
    job = ["--job", prepare(box), "--dir", "data", box.image, "--", "W", *targets]
    for name in ("go", "end"):
        box.write(f"data/{name}", "")
    with start_services(box, "login", "out"):
        done = box("vcluster", "-n1", "--cores=1", "--ram=512M", "--jobdir=c", *job)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_found(box)
    outside = (*LOGIN, OUTSIDE)  # the machine's own addresses are outside, too
    doors = {door for door, answer in found["tcp"].items() if answer == "open"}
    assert {f"{OUTSIDE}:{OPEN}", f"{own}:22", "172.22.1.254:53"} <= doors
    assert not {door for door in doors if door.endswith(f":{LOOPBACK}")}
    assert sorted(found["ping"]) == sorted([own, "172.22.1.254", *outside])
