# SPDX-License-Identifier: Apache-2.0
"""The box that all real tests stand on: real nodes, an ordinary user, a check for left-overs that finds some."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.alone]

Result = subprocess.CompletedProcess[str]


def box(*arguments: str, stdin: str = "") -> Result:
    """Run slurm-box."""
    return subprocess.run(
        [os.environ["CHSLURM_BOX"], *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def residue() -> set[str]:
    """What is left now; checks that text and status agree."""
    result = box("residue")
    lines = set(result.stdout.splitlines())
    assert result.returncode == (0 if lines == {"nothing is left"} else 1), result.stderr
    return lines if result.returncode else set()


@pytest.fixture(autouse=True, scope="module")
def _box_is_up() -> None:
    if "CHSLURM_BOX" not in os.environ:
        pytest.fail("CHSLURM_BOX must name misc/slurm-box; misc/test sets it")
    status = box("status")
    if status.returncode:
        pytest.fail(f"the box must be up: slurm-box up\n{status.stdout}{status.stderr}")


@pytest.fixture
def before() -> Iterator[set[str]]:
    """What earlier tests have left; this one must add nothing to that."""
    left = residue()
    yield left
    assert residue() <= left


def test_srun_reaches_three_machines() -> None:
    result = box("run", "srun", "-N3", "-n3", "hostname")
    assert sorted(result.stdout.split()) == ["cn001", "cn002", "cn003"]


def test_user_is_ordinary() -> None:
    result = box("run", "sh", "-c", "id -u; grep CapEff /proc/self/status; env | grep -c ^SLURM_; cd; pwd")
    uid, capabilities, variables, home = result.stdout.splitlines()
    assert int(uid) >= 1000
    assert int(capabilities.split()[1], 16) == 0
    assert int(variables) == 1
    assert home == "/home/chuser"


@pytest.mark.parametrize("node", ["login", "cn001", "cn003"])
def test_user_may_use_tun_and_namespaces(node: str) -> None:
    make_tap = "exec 3<>/dev/net/tun && ip tuntap add tap0 mode tap && ip -o link show tap0"
    result = box("on", node, "--", "unshare", "--user", "--map-root-user", "--net", "sh", "-c", make_tap)
    assert "tap0" in result.stdout, result.stderr


@pytest.mark.parametrize("node", ["login", "cn001", "out"])
def test_nodes_reach_each_other_and_the_outside(node: str) -> None:
    for peer in ("login", "cn002", "out"):
        result = box("on", node, "ping", "-c1", "-W2", peer)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("launcher", [[], ["srun", "-n1", "--quiet"]])
@pytest.mark.parametrize("status", [0, 1, 7, 125])
def test_exit_status_passes(launcher: list[str], status: int) -> None:
    assert box("run", "--", *launcher, "sh", "-c", f"exit {status}").returncode == status


def test_input_and_arguments_pass() -> None:
    script = 'cat; printf "<%s>" "$@"'
    result = box("on", "cn002", "--user", "chother", "--", "sh", "-c", script, "sh", "a b", "", "*", stdin="text\n")
    assert result.stdout == "text\n<a b><><*>"


def test_signals_reach_the_command() -> None:
    with subprocess.Popen(
        [os.environ["CHSLURM_BOX"], "run", "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 5


def test_ended_jobs_can_be_looked_up() -> None:
    box("run", "srun", "--job-name=lookmeup", "-n1", "true")
    assert "lookmeup" in box("run", "sacct", "-c", "--format=jobname%20,state").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["on"],
        ["on", "cn999", "true"],
        ["on", "../cn001", "true"],
        ["run", "--user", "nobody2", "true"],
        ["residue", "chuser"],
        ["residue", "--user"],
        ["residue", "--user", "root"],
    ]
    + [["up", "-n", number] for number in ("", "0", "-1", "3.5", "4;", "201", "9223372036854775808")],
)
def test_bad_usage_is_one_line(arguments: list[str]) -> None:
    result = box(*arguments)
    assert result.returncode == 64
    assert len(result.stderr.splitlines()) == 1


def test_an_ordinary_job_leaves_nothing(before: set[str]) -> None:
    assert box("run", "srun", "-N3", "hostname").returncode == 0
    assert residue() <= before


@pytest.mark.parametrize("entry", ["", "unshare --user --net"])
def test_residue_finds_processes(entry: str, before: set[str]) -> None:
    pid = int(box("on", "cn001", "sh", "-c", f"{entry} sleep 300 >/dev/null 2>&1 & echo $!").stdout)
    try:
        found = residue() - before
    finally:
        os.kill(pid, signal.SIGKILL)
    assert f"process {pid} of chuser: sleep 300" in found
    namespaces = {f"{kind} namespace of process {pid}" for kind in ("net", "user")}
    assert namespaces & found == (namespaces if entry else set())


def test_residue_of_one_user_is_his_alone() -> None:
    entry = "unshare --user --net sleep 300 >/dev/null 2>&1 & echo $!"
    pid = int(box("on", "cn001", "--user", "chother", "--", "sh", "-c", entry).stdout)
    try:
        told = {user: box("residue", "--user", user) for user in ("chuser", "chother")}
    finally:
        os.kill(pid, signal.SIGKILL)
    assert (told["chuser"].returncode, told["chuser"].stdout) == (0, "nothing is left\n")
    assert told["chother"].returncode == 1
    assert f"process {pid} of chother" in told["chother"].stdout
    assert f"net namespace of process {pid}" in told["chother"].stdout


@pytest.mark.parametrize("folder", ["/tmp", "/var/tmp", "/dev/shm"])
def test_residue_finds_files(folder: str, before: set[str]) -> None:
    planted = Path(folder, f"planted-{os.getpid()}")
    box("run", "mkdir", str(planted))
    try:
        assert f"file {planted} of chuser" in residue() - before
    finally:
        planted.rmdir()


@pytest.mark.parametrize(
    ("plant", "remove", "expected"),
    [
        ("ip link add planted type bridge", "ip link del planted", "link planted on cn003"),
        ("nft add table inet planted", "nft delete table inet planted", "nft table inet planted on cn003"),
        ("mount -t tmpfs planted /mnt", "umount /mnt", "mount of tmpfs planted at /mnt on cn003"),
    ],
)
def test_residue_finds_what_a_node_has(plant: str, remove: str, expected: str, before: set[str]) -> None:
    assert box("on", "cn003", "--user", "root", "--", *plant.split()).returncode == 0
    try:
        assert expected in residue() - before
    finally:
        box("on", "cn003", "--user", "root", "--", *remove.split())


def test_residue_finds_sockets(before: set[str]) -> None:
    serve = "import socket; s = socket.socket(); s.bind(('', 7777)); s.listen(); print(flush=True); input()"
    with subprocess.Popen(
        [os.environ["CHSLURM_BOX"], "on", "cn001", "python3", "-c", serve],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        found = residue() - before
        process.communicate(b"\n")
    assert any(line.startswith("tcp socket") and line.endswith("port 7777 on cn001") for line in found)
