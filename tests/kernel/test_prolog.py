# SPDX-License-Identifier: Apache-2.0
"""The network of a SLURM job: made by root's prolog on every node, used by the job's user alone, gone by the epilog."""

from __future__ import annotations

import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joblab import OTHER_USER, USER, SlurmNode, add_nodes
from lab import Lab

from chslurm.jobnet import JobNames

pytestmark = pytest.mark.quick

JOB, OTHER_JOB = 3000017, 4294967295  # no jobs that a SLURM on this machine could have
KILLS = int(os.environ.get("CHSLURM_KILLS", "40"))
RUNS = 20  # `benchmarks/run prolog` makes 100
HANGING_S = 2.0  # at most, with a program that does not end
RAW = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    try:
        sender.sendto(b"x" * 64, (sys.argv[1], int(sys.argv[2])))
        print("sent")
    except PermissionError:
        print("refused")
"""


@pytest.fixture
def nodes(lab: Lab) -> list[SlurmNode]:
    return add_nodes(lab, 2)


@pytest.fixture
def node(lab: Lab) -> SlurmNode:
    return add_nodes(lab, 2)[0]


def begin(nodes: list[SlurmNode], job_id: int = JOB, uid: int = USER) -> None:
    for node in nodes:
        done = node.prolog(job_id, f"cn[1-{len(nodes)}]", uid)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def end(nodes: list[SlurmNode], job_id: int = JOB) -> None:
    for node in nodes:
        done = node.epilog(job_id)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_guests_of_two_nodes_reach_each_other_and_nothing_is_left(nodes: list[SlurmNode]) -> None:
    before = [node.snapshot() for node in nodes]
    begin(nodes)
    here, neighbour = nodes[0].boot(JOB, 2, 1, [1, 2])
    (there,) = nodes[1].boot(JOB, 2, 2, [1])
    for guest in (here, neighbour, there):
        guest.set_mtu(1450)
    assert here.pings(neighbour.ip)
    assert here.pings(there.ip, 1450)
    assert there.pings(neighbour.ip, 1450)
    assert here.pings(here.address.gateway)
    there.serve("far", "tcp", 7000)
    assert here.asks("tcp", there.ip) == "far"
    end(nodes)
    assert [node.snapshot() for node in nodes] == before


def test_two_jobs_of_two_users_on_the_same_nodes_see_nothing_of_each_other(nodes: list[SlurmNode]) -> None:
    """Their addresses are the same, and each reaches its own; a TAP opens for its owner alone."""
    before = [node.snapshot() for node in nodes]
    begin(nodes, JOB, USER)
    begin(nodes, OTHER_JOB, OTHER_USER)
    for job_id, user, other in ((JOB, USER, OTHER_USER), (OTHER_JOB, OTHER_USER, USER)):
        for node in nodes:
            assert node.open_tap(user, JobNames(job_id).tap(3)) == "open"
            assert "PermissionError: [Errno 1]" in node.open_tap(other, JobNames(job_id).tap(3))
            assert "PermissionError: [Errno 1]" in node.open_tap(other, JobNames(job_id).tap(253))
    pairs = []
    for job_id, user in ((JOB, USER), (OTHER_JOB, OTHER_USER)):
        (here,), (there,) = (node.boot(job_id, 2, host, [1], user) for host, node in enumerate(nodes, start=1))
        there.serve(f"job {job_id}", "tcp", 7000)
        pairs.append((here, there))
    for (here, there), job_id in zip(pairs, (JOB, OTHER_JOB), strict=True):
        assert here.asks("tcp", there.ip) == f"job {job_id}"
    end(nodes, JOB)
    assert pairs[1][0].asks("tcp", pairs[1][1].ip) == f"job {OTHER_JOB}"
    assert not pairs[0][0].pings(pairs[0][1].ip)
    end(nodes, OTHER_JOB)
    assert [node.snapshot() for node in nodes] == before


def test_a_guest_reaches_neither_the_node_nor_what_it_leads_to(nodes: list[SlurmNode]) -> None:
    begin(nodes)
    (guest,) = nodes[0].boot(JOB, 2, 1, [1])
    nodes[0].host.sh("ip addr add 172.22.1.77/32 dev lo; sysctl -qw net.ipv4.ip_forward=1")
    for place in (nodes[0].host, nodes[1].host):
        place.serve("node", "tcp", 7000)
    places = ("10.99.0.1", "10.99.0.2", "10.99.0.254", "172.22.1.77", "172.22.2.77", "127.0.0.1", "172.22.1.254")
    answers = guest.asks_all([("tcp", place, 7000) for place in places])
    assert not any(answers), answers
    guest.sh("ip neigh flush dev eth0; ip addr add 10.99.0.200/24 dev eth0")  # now the node seems a neighbour
    assert not guest.pings("10.99.0.1")
    assert "lladdr" not in guest.sh("ip neigh show 10.99.0.1")
    assert nodes[0].host.asks("tcp", "10.99.0.2") == "node"  # positive control


def test_nobody_else_gets_into_the_tunnel(lab: Lab, nodes: list[SlurmNode]) -> None:
    """A user of a node of the job can't send to its port; what a stranger sends is dropped."""
    begin(nodes)
    (here,), (there,) = (node.boot(JOB, 2, host, [1]) for host, node in enumerate(nodes, start=1))
    assert here.pings(there.ip)
    for uid, said in ((USER, "refused"), (OTHER_USER, "refused")):
        assert nodes[0].as_user(uid, sys.executable, "-c", RAW, "10.99.0.2", "299").stdout.strip() == said
        assert nodes[0].as_user(uid, sys.executable, "-c", RAW, "10.99.0.2", "300").stdout.strip() == "sent"
    # a stranger with the number, the port and all addresses of the tunnel right
    stranger = lab.add_host(9)
    mac, vni = "02:01:ac:16:01:fe", JOB + 1
    stranger.sh(
        f"ip link add vx0 address 02:01:ac:16:02:fe type vxlan id {vni} dstport 299 srcport 299 300 nolearning;"
        f" bridge fdb add {mac} dev vx0 dst 10.99.0.1 port 299 self permanent;"
        " ip addr add 172.22.2.1/32 dev vx0; ip link set vx0 up;"
        f" ip neigh add 172.22.1.254 lladdr {mac} dev vx0 nud permanent;"
        " ip route add 172.22.1.1 via 172.22.1.254 dev vx0 onlink src 172.22.2.1"
    )
    count = "awk '/eth0/ {print $3}' /proc/net/dev"
    arrived = int(here.sh(count))
    stranger.run("ping", "-n", "-c3", "-i0.2", "-W1", "172.22.1.1")
    assert int(here.sh(count)) == arrived
    # positive control: without the rules they arrive
    table = JobNames(JOB).table
    nodes[0].host.sh(f"nft flush chain inet {table} input; nft flush chain inet {table}_again input")
    stranger.run("ping", "-n", "-c3", "-i0.2", "-W1", "172.22.1.1")
    assert int(here.sh(count)) >= arrived + 3


def test_prolog_and_epilog_may_be_repeated(node: SlurmNode) -> None:
    before = node.snapshot()
    end([node])
    for _ in range(3):
        assert node.prolog(JOB, "cn[1-2]").returncode == 0
    during = node.snapshot()
    assert node.prolog(JOB, "cn[1-2]").returncode == 0
    assert node.snapshot()["rules"] == during["rules"]
    end([node])
    end([node])
    assert node.snapshot() == before


def test_links_of_others_with_the_number_of_the_jobs_group_stay(node: SlurmNode) -> None:
    """Another job's number can be the same modulo 2**24, and anybody may choose it."""
    node.host.sh(f"ip link add other0 group {JobNames(JOB).group} type bridge")
    before = node.snapshot()
    for _ in range(2):
        assert node.prolog(JOB, "cn[1-2]").returncode == 0
    end([node])
    assert node.snapshot() == before
    assert "other0" in before["links"]


def kill_both(process: subprocess.Popen[str]) -> None:
    """Kill a process, and its child, which is the prolog; what that has started ends with it, or not."""
    tree = [process.pid]
    for pid in tree:
        with suppress(OSError):
            tree += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    for pid in reversed(tree[:2]):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_killed_at_random_points_and_then_a_normal_job(nodes: list[SlurmNode]) -> None:
    """By KILL of all that the prolog is, at any moment; then the same job, or its epilog, on the same node."""
    node, chance = nodes[0], random.Random(1)
    before = node.snapshot()
    whole_s = 60.0
    for _ in range(3):
        began = time.monotonic()
        assert node.prolog(JOB, "cn[1-2]").returncode == 0
        whole_s = min(whole_s, time.monotonic() - began)
        end([node])
    killed = tries = 0
    while killed < KILLS:
        tries += 1
        assert tries < 3 * KILLS
        process = node.start("prolog", node.environment(JOB, "cn[1-2]", USER))
        time.sleep(chance.uniform(0.0, whole_s))
        kill_both(process)
        killed += process.wait(10) != 0
        process.communicate()
        if chance.random() < 0.5:
            end([node])
            assert node.snapshot()["links"] == before["links"]
    begin(nodes)
    (here,), (there,) = (node.boot(JOB, 2, host, [1]) for host, node in enumerate(nodes, start=1))
    assert here.pings(there.ip)
    end(nodes)
    assert node.snapshot() == before


@pytest.mark.parametrize("program", ["nft", "ip", "bridge"])
def test_a_program_that_hangs_is_not_waited_for(node: SlurmNode, program: str) -> None:
    """The best of three, as other tests may keep the machine busy."""
    before = node.snapshot()
    took_s = []
    for _ in range(3):
        node.host.hide_by(program, "exec sleep 60")
        began = time.monotonic()
        done = node.prolog(JOB, "cn[1-2]")
        took_s.append(time.monotonic() - began)
        node.host.show_again(program)
        assert done.returncode == 70, done.stderr
        assert f"can't finish {program}" in done.stderr
        after = node.snapshot()
        assert (after["links"], after["names"]) == (before["links"], before["names"])
        end([node])
        assert node.snapshot() == before
    assert min(took_s) < HANGING_S


@pytest.mark.parametrize(("program", "count"), [("nft", 2), ("ip", 3), ("bridge", 1)])
def test_a_step_that_fails_leaves_nothing(node: SlurmNode, program: str, count: int) -> None:
    """Whichever call of a program it is that fails: the rest is removed, by the same program, which works again."""
    before = node.snapshot()
    for number in range(1, count + 1):
        script = f'echo >>/run/calls; [ $(wc -l </run/calls) = {number} ] && exit 3; exec $real "$@"'
        node.host.sh("rm -f /run/calls; touch /run/calls")
        node.host.hide_by(program, script)
        done = node.prolog(JOB, "cn[1-2]")
        node.host.show_again(program)
        assert (done.returncode, "exit status 3" in done.stderr) == (70, True), (number, done.stderr)
        assert node.snapshot() == before, (number, done.stderr)


@pytest.mark.parametrize(
    ("state", "goes"),
    [("COMPLETED", True), ("NODE_FAIL", True), ("RUNNING", False), ("COMPLETING", False), ("", False)],
)
def test_what_a_job_has_left_on_a_node_that_was_given_up_goes_when_slurm_says_it_is_over(
    node: SlurmNode, state: str, goes: bool
) -> None:
    """Asked only about jobs that have a network here and no process; an answer that is none is no reason."""
    before = node.snapshot()
    node.host.hide_by("scontrol", f"echo JobId=$4 JobState={state}")
    assert node.prolog(JOB, "cn[1-2]").returncode == 0
    done = node.prolog(OTHER_JOB, "cn[1-2]")
    assert (done.returncode, f"removed the network of job {JOB}, which is over" in done.stderr) == (0, goes), (
        done.stderr
    )
    assert (JobNames(JOB).bridge in node.snapshot()["links"]) is not goes
    assert JobNames(OTHER_JOB).bridge in node.snapshot()["links"]
    end([node], JOB)
    end([node], OTHER_JOB)
    assert node.snapshot() == before


def test_who_gets_a_network(node: SlurmNode) -> None:
    before = node.snapshot()
    for settings_text, constraints, gets in (
        ("JOBS=partition:site", "", True),
        ("JOBS=partition:other", "", False),
        ("JOBS=feature:vm", "[big&vm*2]", True),
        ("JOBS=feature:vm", "vmx", False),
        ("JOBS=all", "", True),
    ):
        node.write_settings(settings_text)
        assert node.prolog(JOB, "cn[1-2]", USER, SLURM_JOB_CONSTRAINTS=constraints).returncode == 0
        assert (node.snapshot()["names"] == f"{JobNames(JOB).netns}\n") is gets, settings_text
        end([node])
        assert node.snapshot() == before
    node.host.sh("rm /etc/charliecloud/network.conf")
    assert node.prolog(JOB, "cn[1-2]").returncode == 0
    assert node.snapshot() == before


def test_a_network_that_cannot_be_made_is_demanded_or_not(node: SlurmNode) -> None:
    before = node.snapshot()
    done = node.prolog(JOB, "cn[1-2],nowhere")
    assert (done.returncode, f"job {JOB} gets no network: can't find the address of nowhere" in done.stderr) == (
        0,
        True,
    )
    node.write_settings("REQUIRED=yes")
    assert node.prolog(JOB, "cn[1-2],nowhere").returncode == 70
    assert node.snapshot() == before


def test_settings_that_others_can_change_are_refused(node: SlurmNode) -> None:
    before = node.snapshot()
    for harm in ("chmod g+w", "chown 65534"):
        node.write_settings("JOBS=all")
        node.host.sh(f"{harm} /etc/charliecloud/network.conf")
        done = node.prolog(JOB, "cn[1-2]")
        assert (done.returncode, "others than root can change it" in done.stderr) == (64, True)
        node.host.sh("chown 0 /etc/charliecloud/network.conf; chmod go-w /etc/charliecloud/network.conf")
    assert node.snapshot() == before


HOSTILE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    [
        "17\n",
        "$(touch /tmp/x)",
        "`id`",
        "17;id",
        "../../etc",
        "*",
        "-1",
        "0x11",
        "\u0661\u0667",
        "",
        "cn[1-99999999]",
        "A" * 60000,
    ]
)
# fmt: off
NAMES = st.sampled_from([
    "SLURM_JOB_ID", "SLURM_JOB_UID", "SLURM_JOB_PARTITION", "SLURM_JOB_CONSTRAINTS", "SLURM_JOB_NODELIST",
    "SLURM_NODELIST", "SLURMD_NODENAME", "LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "IFS", "PATH", "HOME",
    "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "TMPDIR", "BASH_FUNC_dirname%%", "CHSLURM_DEBUG", "SLURM_CONF", "PS4",
])
# fmt: on


def test_environments_of_any_kind(lab: Lab) -> None:
    """No file outside of root's own state is touched, and what was made is removed by the same job's epilog."""
    (node, _) = add_nodes(lab, 2)
    before = node.snapshot()
    # all that there is can be read only, but for root's state, and places where anybody may write
    open_to_all = ("/tmp", "/var/tmp", "/dev/shm")
    node.host.sh("mkdir -m 700 /run/chslurm-jobs")
    node.host.sh("".join(f"mount -t tmpfs none {place}; " for place in open_to_all) + "mount -o remount,bind,ro /")
    files = f"find /run {' '.join(open_to_all)} ! -path '/run/compiled*' | sort"
    shown = node.host.sh(files)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(NAMES, HOSTILE, max_size=4))
    def check(hostile: dict[str, str]) -> None:
        environment = {**node.environment(JOB, "cn[1-2]", USER), **hostile}
        for verb in ("prolog", "epilog"):
            process = node.start(verb, environment)
            _, err = process.communicate(timeout=30)
            assert process.returncode in (0, 64, 70), err
            assert "unexpected error" not in err
            own = re.sub(r"(?s)ERROR: ld\.so: object '.*?' from LD_PRELOAD cannot be preloaded.*?ignored\.\n", "", err)
            assert len(own.splitlines()) <= 1, err
        end([node])
        assert node.snapshot() == before

    check()
    assert node.host.sh(files) == shown


def test_times(node: SlurmNode, capsys: pytest.CaptureFixture[str]) -> None:
    """Median and maximum over some jobs; the machine does other things, too, so that only the order is judged."""
    times: dict[str, list[float]] = {"prolog": [], "epilog": []}
    for job_id in range(1, RUNS + 1):
        for verb, taken in times.items():
            process = node.start(verb, node.environment(job_id, "cn[1-2]", USER))
            began = time.monotonic()
            assert process.wait() == 0  # with a limit Python looks every 50 ms only
            taken.append(time.monotonic() - began)
            process.communicate()
    with capsys.disabled():
        for verb, taken in times.items():
            print(f"\n{verb}: median {statistics.median(taken) * 1000:.0f} ms, maximum {max(taken) * 1000:.0f} ms")
    assert statistics.median(times["prolog"]) < 0.5
