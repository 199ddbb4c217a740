# SPDX-License-Identifier: Apache-2.0
"""A network that root makes on a workstation, with real guests: their owner reaches them, others do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from realbox import Box, Job, Result, start_box

pytestmark = [pytest.mark.real, pytest.mark.alone]

SCRIPT = Path(__file__).parent.parent.parent / "misc" / "network-w-linux"
OUTSIDE = "203.0.113.2"
SERVER = f"""
import socket
with socket.create_server(("{OUTSIDE}", 7900)) as server:
    print("up", flush=True)
    while True:
        connection, (address, _) = server.accept()
        connection.sendall(address.encode())
        connection.close()
"""
CONNECT = "import socket; print(socket.create_connection(('{}', {}), 10).recv(64).decode())"
ATTACH = """
from chslurm.host.sitetaps import open_site_tap
open_site_tap("chtap3")
print("open")
"""


@pytest.fixture
def other(box_program: str) -> Iterator[Box]:
    """The same box as another user has it."""
    with start_box(box_program, os.environ.get("CHSLURM_OTHER_USER", "chother")) as other:
        yield other


class Site:
    """Root of the login node, with the init script and settings in a folder of his own."""

    def __init__(self, box: Box, folder: Path) -> None:
        self.box, self.config = box, folder / "config.sh"
        nat = "FWD_IFACE=eth1      # network interface to be used for NAT"
        self.config.write_text(f"TAP_OWNER={box.user}   # you\n{nat}\nTAP_CT=3\n")
        shutil.copy(SCRIPT, folder)
        (folder / "chslurm").symlink_to(box("sh", "-c", "command -v chslurm").stdout.strip())
        self.script = folder / SCRIPT.name

    def do(self, verb: str) -> Result:
        return self.box(str(self.script), verb, "--config", str(self.config), user="root")

    def rules(self) -> str:
        return self.box("sh", "-c", "nft -s list ruleset; ip -br link; ip -br address", user="root").stdout


@pytest.fixture
def site(box: Box) -> Iterator[Site]:
    """The network is up, and gone without a trace afterwards."""
    folder = Path(tempfile.mkdtemp(dir="/run", prefix="chslurm-test-"))
    try:
        site = Site(box, folder)
        before = site.rules()
        try:
            done = site.do("start")
            assert done.returncode == 0, done.stderr
            assert done.stdout == f"up: chbr0 with 3 TAPs of {box.user}, NAT to eth1\n"
            yield site
        finally:
            done = site.do("stop")
        assert (done.returncode, site.rules()) == (0, before), done.stderr
        assert site.do("status").returncode == 3
    finally:
        shutil.rmtree(folder)


@contextmanager
def start_cluster(box: Box, name: str, guests: int) -> Iterator[subprocess.Popen[str]]:
    """A cluster whose guests are ready, in job directory `name`."""
    command = ("vcluster", f"-n{guests}", "--cores=1", "--ram=512M", f"--jobdir={name}", box.image)
    with box.start(*command) as head:
        job = Named(box, name)
        try:
            for guest in range(guests):
                job.wait_event("guest_ready", guest)
            yield head
        finally:
            head.terminate()


class Named(Job):
    """A cluster in a job directory of another name."""

    @property
    def dir(self) -> Path:
        return self.box.folder / self.id


def reach(box: Box, name: str, address: str, *command: str) -> str:
    """What a command in a guest prints, by ssh to its address, as the job directory says."""
    done = box("ssh", "-F", f"{name}/ssh_config", "-o", "BatchMode=yes", f"charlie@{address}", *command)
    return done.stdout.strip() or done.stderr


def knock(box: Box, address: str, port: int = 22) -> str:
    done = box("/usr/bin/python3", "-c", CONNECT.format(address, port))
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.long  # the tutorial does the most of it, and the kernel ring all of its rules
def test_the_owner_reaches_his_guests_from_the_host_and_nobody_else_does(box: Box, other: Box, site: Site) -> None:
    with start_cluster(box, "c", 2) as head:
        assert reach(box, "c", "172.22.1.1", "hostname") == "chgu0"
        assert reach(box, "c", "172.22.1.2", "hostname") == "chgu1"
        assert box("chslurm", "ssh", "-c", "c", "1", "--", "hostname").stdout == "chgu1\n"
        everywhere = box("chslurm", "exec", "-c", "c", "--all", "--", "hostname").stdout
        assert sorted(everywhere.splitlines()) == ["chgu0: chgu0", "chgu1: chgu1"]
        check_own_key(box)
        check_others(box, other)
        check_guest(box)
        with start_cluster(box, "d", 1) as second:
            check_second(box, site)
            reach(box, "c", "172.22.1.1", "sudo", "shutdown", "-h", "now")
            said, _ = head.communicate(timeout=90)
            assert head.returncode == 0, said
            assert (
                "network:       site (made by root; 3 of 3 TAPs free): guests reach each other and your other" in said
            )
            assert "outside by NAT of this host, through chbr0" in said
            check_end(site, second)


def check_own_key(box: Box) -> None:
    """The tutorial's line, with a key that the user has put into the guest."""
    box("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key")
    added = box("sh", "-c", "ssh -F c/ssh_config chgu0 'cat >>.ssh/authorized_keys' <key.pub")
    assert added.returncode == 0, added.stderr
    (keys,) = (box.folder / "c" / "run").glob("keys.*")
    options = ("-i", "key", "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={keys}/known_hosts")
    assert box("ssh", *options, "-o", "BatchMode=yes", "charlie@172.22.1.1", "hostname").stdout == "chgu0\n"


def check_others(box: Box, other: Box) -> None:
    assert knock(box, "172.22.1.1").startswith("SSH-2.0")
    assert knock(other, "172.22.1.1") == "ConnectionRefusedError: [Errno 111] Connection refused"
    python = str(Path(box("sh", "-c", "command -v chslurm").stdout).parent / "python3")
    assert box(python, "-c", ATTACH).stdout == "open\n"
    assert "PermissionError: [Errno 1]" in other(python, "-c", ATTACH).stderr


def check_guest(box: Box) -> None:
    """The outside is reached, by the host's address; the host's services and the nodes behind it are not."""
    with box.start("/usr/bin/python3", "-c", SERVER, node="out") as server:
        assert server.stdout
        assert server.stdout.readline() == "up\n"
        asked = reach(box, "c", "172.22.1.2", "python3", "-c", f'"{CONNECT.format(OUTSIDE, 7900)}"')
        server.kill()
    assert asked == "203.0.113.1"
    assert reach(box, "c", "172.22.1.2", "ping", "-c1", "-w5", OUTSIDE, "|", "grep", "-o", "1.received") == "1 received"
    for place in ("10.99.0.254", "10.99.0.1", "203.0.113.1"):
        lost = reach(box, "c", "172.22.1.2", "ping", "-c1", "-w2", place, "|", "grep", "-o", "0.received")
        assert lost == "0 received", place


def check_second(box: Box, site: Site) -> None:
    """A second cluster has the TAP that is left; for a third there is none, and it says so."""
    assert reach(box, "d", "172.22.1.3", "hostname") == "chgu0"
    assert reach(box, "c", "172.22.1.3", "hostname") != "chgu0"  # no key of the other cluster is good there
    assert "in use by guests: chtap1, chtap2, chtap3\n" in site.do("status").stdout
    third = json.loads(box("vcluster", "-n2", "--dry-run", box.image).stdout)
    assert third["network"] == "rootless"
    assert third["network_reason"] == "that of root has no room: 0 of 3 TAPs free, 3 in use, 2 needed"
    forced = box("vcluster", "-n2", "--network=site", "--dry-run", box.image)
    assert (forced.returncode, "0 of 3 TAPs free" in forced.stderr) == (64, True)


def check_end(site: Site, second: subprocess.Popen[str]) -> None:
    """A cluster whose network root takes away ends, and says so."""
    assert "guests at chtap3 lose their network" in site.do("restart").stdout
    said, _ = second.communicate(timeout=90)
    assert second.returncode == 70
    assert "the network that root made here is gone" in said


def test_who_has_no_tap_is_told_and_has_a_network_of_his_own(box: Box, other: Box, site: Site) -> None:
    theirs = json.loads(other("vcluster", "--dry-run", other.image).stdout)
    why = "that of root has no room: 0 of 3 TAPs free, 3 of another user, 2 needed"
    assert (theirs["network"], theirs["network_reason"]) == ("rootless", why)
    mine = json.loads(box("vcluster", "--network=rootless", "--dry-run", box.image).stdout)
    assert (mine["network"], mine["network_reason"]) == ("rootless", "as --network says")
    mine = json.loads(box("vcluster", "--dry-run", box.image).stdout)
    assert (mine["network"], [guest["slot"] for guest in mine["guests"]]) == ("site", [1, 2])
