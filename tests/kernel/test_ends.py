# SPDX-License-Identifier: Apache-2.0
"""However a fabric ends, nothing of it is left: no process, no namespace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import PACKAGE, USER, Lab, Node, is_alive, is_gone, join, kill

from chslurm.phases import NOTICES

pytestmark = pytest.mark.quick


@pytest.fixture(params=["cluster", "workstation", "workstation with slirp4netns"])
def node(lab: Lab, request: pytest.FixtureRequest) -> Node:
    """A fabric joined to the outside or to another; what does that, pasta or slirp4netns, is its joiner."""
    if request.param != "cluster":
        host = lab.add_host(1)
        if "slirp4netns" in request.param:
            host.hide_program("pasta")
        node = lab.start(host, slots=1, mode="workstation")
        node.ask("join_outside")
        return node
    node = lab.start(lab.add_host(1), 1, 1, host_ct=2)
    join([node, lab.start(lab.add_host(2), 2, 1, host_ct=2)])
    return node


def test_orderly_end(node: Node) -> None:
    pids = node.helpers()
    node.end()
    assert all(is_gone(pid) for pid in pids.values())


@pytest.mark.parametrize("victim", ["node", "holder", "joiner"])
def test_no_process_survives_the_death_of_one(node: Node, victim: str) -> None:
    pids = node.helpers()
    paths = [f"/proc/{node.holder}/ns/{kind}" for kind in ("user", "net")]
    namespaces = {os.readlink(path) for path in paths}
    with contextlib.ExitStack() as stack:
        for path in paths:  # open: else others, that run beside us, may get their numbers
            stack.enter_context(Path(path).open("rb"))
        kill(pids[victim])
        for name, pid in pids.items():
            assert is_gone(pid), name
        assert not namespaces & inhabited_namespaces()


@pytest.mark.parametrize(("victim", "told"), [("holder", "holder"), ("joiner", " has ended: killed by SIGKILL")])
def test_the_dead_is_named_with_its_log(node: Node, victim: str, told: str) -> None:
    kill(node.helpers()[victim])
    lost = node.read()["lost"]
    assert told in lost
    assert str(node.log_dir) in lost


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *NOTICES])
def test_signals_for_everyone_do_not_end_the_network(node: Node, number: signal.Signals) -> None:
    """SLURM's cancel sends TERM to every process of the job: guests still need their network to finish."""
    pids = node.helpers()
    for name in ("holder", "joiner"):
        os.kill(pids[name], number)
    time.sleep(0.2)
    assert node.helpers() == pids
    assert node.guests[0].pings(node.guests[0].address.gateway)


def test_a_tool_inside_ends_with_the_network(lab: Lab) -> None:
    """An ssh of the user that hangs in the namespace would keep it, and itself, for minutes."""
    node = lab.start(lab.add_host(1))
    tool = subprocess.Popen(node.tool_argv("sleep", "60"))
    while not tool.poll() and os.readlink(f"/proc/{tool.pid}/ns/net") != os.readlink(f"/proc/{node.holder}/ns/net"):
        time.sleep(0.01)
    kill(node.process.pid)
    assert tool.wait(2) == -signal.SIGKILL


def test_end_before_anything_was_joined(lab: Lab) -> None:
    node = lab.start(lab.add_host(1))
    kill(node.process.pid)
    assert is_gone(node.holder)


def test_start_is_fast(lab: Lab) -> None:
    host = lab.add_host(1)
    times = sorted(lab.start(host, slots=8).started["elapsed_s"] for _ in range(3))
    assert times[1] < 0.15


def test_no_tun_device_is_told_plainly(lab: Lab) -> None:
    host = lab.add_host(1)
    host.sh("chmod 600 /dev/net/tun")
    with pytest.raises(AssertionError, match="can't make a TAP device with /dev/net/tun: Permission denied"):
        lab.start(host)


def test_a_user_namespace_without_rights_is_told_plainly(lab: Lab) -> None:
    """With Ubuntu's AppArmor anybody makes one, but may not write its maps. Here the kernel refuses a foreign id."""
    do = "from chslurm.host import namespaces as n; n._libc.unshare(0x10000000); n._map_ids(1, 1)"
    user = ("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "env", f"PYTHONPATH={PACKAGE}")
    told = lab.outside.run(*user, sys.executable, "-c", do).stderr
    assert "can't use a user namespace: /proc/self/uid_map: Operation not permitted" in told
    assert "Ubuntu 24.04" in told


def inhabited_namespaces() -> set[str]:
    """Every user and network namespace that a process, not a zombie, is in."""
    found = set()
    for pid in (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()):
        for kind in ("user", "net"):
            with contextlib.suppress(OSError):
                if is_alive(pid):
                    found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return found
