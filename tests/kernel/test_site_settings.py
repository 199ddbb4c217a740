# SPDX-License-Identifier: Apache-2.0
"""The site's settings where they really are, in /etc, written by root and read by an ordinary user."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from lab import PACKAGE, USER, Lab, Namespace

FILE = "/etc/charliecloud/config.toml"
MINE = "/run/home/.config/chslurm/config.toml"
LIMITS = 'guests = 3\nram = "300M"\n[limits]\nguests_per_node = 3\n'


class Machine:
    """A machine with an /etc of its own, and a user on it."""

    def __init__(self, host: Namespace) -> None:
        self.host = host
        host.sh(
            "mount -t tmpfs -o mode=755 none /run; mkdir /run/up /run/work"
            "; mount -t overlay -o lowerdir=/etc,upperdir=/run/up,workdir=/run/work none /etc"
            f"; mkdir -p /run/home/.config/chslurm; chown -R {USER}:{USER} /run/home"
            "; qemu-img create -q -f qcow2 /run/home/image.qcow2 64M; chmod 644 /run/home/image.qcow2"
        )
        self.write(LIMITS)

    def write(self, text: str) -> None:
        """Write the site's file as root would."""
        self.host.sh(f"rm -rf /etc/charliecloud /run/x; mkdir -m 755 /etc/charliecloud; cat >{FILE} <<'END'\n{text}END")

    def run(self, program: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of our programs as the user."""
        settings = {
            "PYTHONPATH": str(PACKAGE),
            "HOME": "/run/home",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        } | variables
        environment = ["env", "-i", "-C", "/run/home", *(f"{name}={value}" for name, value in settings.items())]
        who = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
        code = f"from chslurm.cli.{program} import main; main()"
        return self.host.run(*who, *environment, sys.executable, "-c", code, *words)


@pytest.fixture(scope="module")
def idle() -> Iterator[Machine]:
    with Lab() as lab:
        yield Machine(lab.add_host(1))


@pytest.fixture
def machine(idle: Machine) -> Machine:
    idle.host.sh(f"rm -f {MINE}")
    idle.write(LIMITS)
    return idle


def test_everybody_goes_by_the_site_s_file(machine: Machine) -> None:
    shown = machine.run("main", "config", "show")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"guests_per_node  3      {FILE}\n" in shown.stdout
    planned = machine.run("chrun", "--dry-run", "image.qcow2")
    assert '"guests 3, ram 300 MiB from /etc/charliecloud/config.toml"' in planned.stdout, planned.stderr
    refused = machine.run("chrun", "-n4", "image.qcow2", CHSLURM_GUESTS="2")
    assert (refused.returncode, refused.stdout) == (64, "")
    assert f"the site allows 3 (limits.guests_per_node in {FILE})" in refused.stderr


def test_the_user_s_own_wins_but_for_limits(machine: Machine) -> None:
    machine.host.sh(f"echo 'guests = 2' >{MINE}; chown {USER} {MINE}")
    assert f'"guests 2 from {MINE}"' in machine.run("chrun", "--dry-run", "image.qcow2").stdout
    machine.host.sh(f"echo 'guests = 4' >{MINE}")
    assert "can't place 4 guests" in machine.run("chrun", "--dry-run", "image.qcow2").stderr


def test_nobody_gets_rid_of_it_by_a_variable(machine: Machine) -> None:
    machine.host.sh("touch /etc/none.toml")
    for name in ("/etc/none.toml", "/nowhere", "relative"):
        done = machine.run("chrun", "-n4", "image.qcow2", CHSLURM_SITE_CONFIG=name)
        assert (done.returncode, "the site allows 3" in done.stderr) == (64, True), done.stderr
    machine.host.sh(f"rm {FILE}")
    done = machine.run("chrun", "-n4", "--dry-run", "image.qcow2", CHSLURM_SITE_CONFIG="/etc/none.toml")
    assert "the site" not in done.stderr


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("chmod 664 {0}", "others than root can change it"),
        (f"chown {USER} {{0}}", "others than root can change it"),
        ("chmod 777 /etc/charliecloud", "others than root can change folder charliecloud"),
        (f"chown {USER} /etc/charliecloud", "others than root can change folder charliecloud"),
        ("mv {0} {0}.x; ln -s {0}.x {0}", "a symbolic link"),
        ("mv /etc/charliecloud /run/x; ln -s /run/x /etc/charliecloud", "folder charliecloud: a symbolic link"),
        ("chmod 600 {0}", "Permission denied"),
        ("chmod 700 /etc/charliecloud", "Permission denied; root lets all look: chmod go+rx /etc/charliecloud"),
        ("echo '[limits' >{0}", "Expected ']' at the end of a table declaration"),
    ],
)
def test_a_file_that_can_t_be_relied_on_lets_nobody_start(machine: Machine, spoil: str, told: str) -> None:
    machine.host.sh(spoil.format(FILE))
    for program in ("chrun", "oneguest"):
        done = machine.run(program, "image.qcow2")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (64, "", 1), done.stderr
        assert "can't use " in done.stderr
        assert told in done.stderr
    assert machine.host.sh("ls /run/home") == "image.qcow2\n"
