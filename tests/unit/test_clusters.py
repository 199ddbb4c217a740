# SPDX-License-Identifier: Apache-2.0
"""The register of a user's clusters, and which of them a name means."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from chslurm.errors import UsageError
from chslurm.host import clusters, lock
from chslurm.host.clusters import find_clusters, read_cluster, read_register, register_cluster, select_cluster
from chslurm.host.lock import hold_lock
from chslurm.jobdir import JobDir
from chslurm.plan import Plan, plan_to_json
from chslurm.siteconfig import CLUSTER_VARIABLE

StartHead = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the user, with nothing in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_STATE_HOME", CLUSTER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def register(home: Path) -> Path:
    return home / ".local" / "state" / "chslurm" / "clusters"


@pytest.fixture
def job_dir_of(plan_of: Callable[..., Plan]) -> Callable[..., Plan]:
    """Return a function that makes a job directory as the head would, and returns its plan."""

    def make(root: Path, number: int = 1) -> Plan:
        plan = dataclasses.replace(
            plan_of(), job_dir=str(root), cluster_id=f"{number:016x}", created=f"2026-01-02T03:04:{number % 60:02}Z"
        )
        job_dir = JobDir(root)
        Path(job_dir.run).mkdir(parents=True, exist_ok=True)
        Path(job_dir.marker).write_text(f"{plan.cluster_id}\n")
        Path(job_dir.plan).write_bytes(plan_to_json(plan))
        return plan

    return make


@contextmanager
def run_head(plan: Plan, notes: list[str] | None = None) -> Iterator[None]:
    job_dir = JobDir(Path(plan.job_dir))
    with (
        hold_lock(job_dir.lock, job_dir.lease(plan.cluster_id), "c"),
        register_cluster(plan, (notes if notes is not None else []).append),
    ):
        yield


@pytest.fixture
def start(job_dir_of: Callable[..., Plan]) -> Iterator[Callable[..., Plan]]:
    """Return a function that starts the head of a cluster, which runs until the end of the test."""
    with ExitStack() as stack:

        def begin(root: Path, number: int = 1) -> Plan:
            plan = job_dir_of(root, number)
            stack.enter_context(run_head(plan))
            return plan

        yield begin


def test_a_cluster_is_registered_while_it_runs(tmp_path: Path, register: Path, job_dir_of: Callable[..., Plan]) -> None:
    plan = job_dir_of(tmp_path / "c")
    notes: list[str] = []
    with run_head(plan, notes):
        (path,) = register.iterdir()
        assert (path.name, path.stat().st_mode & 0o777) == (plan.cluster_id, 0o600)
        assert register.stat().st_mode & 0o777 == 0o700
        entry = json.loads(path.read_text())
        assert (entry["job_dir"], entry["slurm_job_id"], entry["pid"]) == (plan.job_dir, "42", os.getpid())
        (found,) = find_clusters()
        assert (found.plan, found.running, found.name) == (plan, True, "c")
        assert found.job_dir == JobDir(tmp_path / "c")
    assert (find_clusters(), list(register.iterdir()), notes) == ([], [], [])
    assert not read_cluster(tmp_path / "c").running


def test_the_register_is_where_the_user_keeps_state(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, start: StartHead
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    plan = start(tmp_path / "c")
    assert (tmp_path / "state" / "chslurm" / "clusters" / plan.cluster_id).exists()
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert find_clusters() == []
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "file", "shared", "read-only", "none"])
def test_a_bad_home_is_only_a_note(
    tmp_path: Path, home: Path, damage: str, job_dir_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    if damage == "file":
        (home / ".local").write_text("")
    elif damage == "shared":
        (home / ".local/state/chslurm/clusters").mkdir(parents=True)
        (home / ".local/state/chslurm/clusters").chmod(0o777)
    elif damage == "read-only":
        monkeypatch.setenv("HOME", "/proc/self")
    elif damage == "missing":
        monkeypatch.setenv("HOME", "/proc/no/home")
    else:
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home")))
    notes: list[str] = []
    with run_head(job_dir_of(tmp_path / "c"), notes):
        assert find_clusters() == []
        assert select_cluster(str(tmp_path / "c"), tmp_path).running
    (note,) = notes
    assert note.startswith("can't register the cluster: ")
    assert note.endswith("; name it by its job directory (chslurm status -c DIR)")


def test_an_entry_that_vanished_and_a_full_disk_hurt_nobody(
    tmp_path: Path, register: Path, job_dir_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = job_dir_of(tmp_path / "c")
    with run_head(plan):
        (register / plan.cluster_id).unlink()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(clusters, "write_file", no_space)
    notes: list[str] = []
    with run_head(plan, notes):
        pass
    assert "No space left on device" in notes[0]


def leave_entry(register: Path, plan: Plan, **changes: Any) -> Path:
    """The entry of a head that was killed."""
    entry = {
        "cluster_id": plan.cluster_id, "job_dir": plan.job_dir, "host": "cn001", "machine": lock.read_machine(),
        "pid": 1, "slurm_job_id": "", "started_unix_s": time.time(), **changes,
    }  # fmt: skip
    register.mkdir(parents=True, exist_ok=True)
    path = register / plan.cluster_id
    path.write_text(json.dumps(entry))
    return path


def lay_lease(plan: Plan, machine: str, age_s: float = 0.0) -> None:
    job_dir = JobDir(Path(plan.job_dir))
    Path(job_dir.lock).touch()
    lease = Path(job_dir.lease(plan.cluster_id))
    lease.write_text(f"{machine}\nprocess 7 on cn001\n")
    os.utime(lease, (time.time() - age_s,) * 2)


def test_who_was_killed_here_is_removed_at_once(
    tmp_path: Path, register: Path, job_dir_of: Callable[..., Plan]
) -> None:
    plan = job_dir_of(tmp_path / "c")
    lay_lease(plan, lock.read_machine())
    path = leave_entry(register, plan)
    assert find_clusters() == []
    assert not path.exists()


def test_who_was_killed_elsewhere_is_removed_when_that_is_certain(
    tmp_path: Path, register: Path, job_dir_of: Callable[..., Plan]
) -> None:
    plan = job_dir_of(tmp_path / "c")
    lay_lease(plan, "another", age_s=50)
    path = leave_entry(register, plan, machine="another", started_unix_s=time.time() - 1000)
    assert len(find_clusters()) == 1
    lay_lease(plan, "another", age_s=70)
    assert find_clusters() == []
    assert path.exists()
    long_ago_s = time.time() - 7 * 3600
    leave_entry(register, plan, machine="another", started_unix_s=long_ago_s)
    assert find_clusters() == []
    assert path.exists()
    lay_lease(plan, "another", age_s=7 * 3600)
    leave_entry(register, plan, machine="another")
    assert find_clusters() == []
    assert path.exists()  # its head has only just started: perhaps not all of that is seen here yet
    leave_entry(register, plan, machine="another", started_unix_s=long_ago_s)
    assert find_clusters() == []
    assert not path.exists()


@pytest.mark.parametrize("ahead_s", [-1000.0, 1000.0])
def test_whose_clock_is_wrong_sees_what_all_see(
    tmp_path: Path,
    register: Path,
    job_dir_of: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
) -> None:
    plan, true_time = job_dir_of(tmp_path / "c"), time.time
    path = leave_entry(register, plan, machine="another", started_unix_s=time.time() - 9000)
    lay_lease(plan, "another", age_s=20)
    monkeypatch.setattr(time, "time", lambda: true_time() + ahead_s)
    assert [cluster.plan.cluster_id for cluster in find_clusters()] == [plan.cluster_id]
    assert list(register.iterdir()) == [path]
    register.chmod(0o777)  # now there is no other clock
    assert read_cluster(tmp_path / "c").running is (ahead_s < 0)


def test_a_directory_used_again_is_the_new_clusters(
    tmp_path: Path, register: Path, job_dir_of: Callable[..., Plan], start: StartHead
) -> None:
    old = leave_entry(register, job_dir_of(tmp_path / "c", 1))
    new = start(tmp_path / "c", 2)
    assert [cluster.plan.cluster_id for cluster in find_clusters()] == [new.cluster_id]
    assert not old.exists()


def test_a_directory_that_is_not_seen_here_is_kept_apart(
    tmp_path: Path, register: Path, plan_of: Callable[..., Plan]
) -> None:
    plan = dataclasses.replace(plan_of(), job_dir=str(tmp_path / "local"))
    path = leave_entry(register, plan, machine="another")
    found = read_register()
    assert (found.clusters, [entry.host for entry in found.hidden]) == ((), ["cn001"])
    leave_entry(register, plan, machine="another", started_unix_s=time.time() - 31 * 86400)
    assert read_register().hidden == ()
    assert not path.exists()
    with subprocess.Popen(["true"]) as ended:
        pass
    leave_entry(register, plan, pid=ended.pid)
    assert read_register().hidden == ()
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"job_dir": "relative"}, {"job_dir": "/a\0b"}, {"job_dir": 7}, {"cluster_id": "0" * 16}, {"more": 1},
        {"pid": "1"}, {"job_dir": "/" + "x" * 20000}, {"job_dir": "/\ud800"},
        {"started_unix_s": 1e308}, {"started_unix_s": -1e18},
    ],
)  # fmt: skip
def test_hostile_entries_are_refused(
    tmp_path: Path, register: Path, start: StartHead, plan_of: Callable[..., Plan], change: dict[str, Any]
) -> None:
    good = start(tmp_path / "c")
    leave_entry(register, plan_of(), **change)
    found = read_register()
    assert ([cluster.plan for cluster in found.clusters], found.hidden) == ([good], ())


def test_what_is_no_entry_is_passed_over(tmp_path: Path, register: Path, start: StartHead) -> None:
    good = start(tmp_path / "c")
    (register / ("a" * 16)).mkdir()
    os.mkfifo(register / ("b" * 16))
    (register / ("c" * 16)).symlink_to(register / good.cluster_id)
    (register / ("d" * 16)).write_bytes(b"\xff[[[[" * 1000)
    (register / "README").write_text("mine")
    if os.geteuid() == 0:  # another user's, who may write here by mistake
        (register / ("e" * 16)).write_text((register / good.cluster_id).read_text().replace(good.cluster_id, "e" * 16))
        os.chown(register / ("e" * 16), 12345, 12345)
    assert [cluster.plan for cluster in find_clusters()] == [good]


# -- which one is meant -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("home")
def test_the_only_one_needs_no_name(tmp_path: Path, start: StartHead) -> None:
    with pytest.raises(UsageError, match="no cluster of yours runs; chrun starts one"):
        select_cluster(None, tmp_path)
    plan = start(tmp_path / "c")
    assert select_cluster(None, tmp_path).plan == plan
    start(tmp_path / "d", 2)
    with pytest.raises(UsageError, match="2 clusters of yours run: c, d; name one with -c"):
        select_cluster(None, tmp_path)


@pytest.mark.usefixtures("home")
def test_a_name_an_id_a_beginning_or_a_path(tmp_path: Path, start: StartHead, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = start(tmp_path / "a" / "charlie.1", 1), start(tmp_path / "b" / "charlie.12", 0xAC0000000000002A)
    for name, plan in {
        "charlie.1": first,
        "charlie.12": second,
        first.cluster_id: first,
        "ac": second,
        str(tmp_path / "a" / "charlie.1"): first,
        "b/charlie.12/": second,
    }.items():
        assert select_cluster(name, tmp_path).plan == plan, name
    with pytest.raises(UsageError, match=r"cluster 'ch': could be 2: charlie\.1, charlie\.12; name one with -c"):
        select_cluster("ch", tmp_path)
    with pytest.raises(UsageError, match="cluster 'x': none of yours that runs is called so; chslurm ps shows them"):
        select_cluster("x", tmp_path)
    with pytest.raises(UsageError, match="chslurm ps shows them; name one that has ended by its job directory"):
        select_cluster("x", tmp_path, allow_ended=True)
    monkeypatch.setenv(CLUSTER_VARIABLE, "charlie.12")
    assert select_cluster(None, tmp_path / "a" / "charlie.1").plan == second
    assert select_cluster("charlie.1", tmp_path).plan == first
    monkeypatch.setenv(CLUSTER_VARIABLE, "x")
    with pytest.raises(UsageError, match="CHSLURM_CLUSTER 'x': none"):
        select_cluster(None, tmp_path)


@pytest.mark.usefixtures("home")
def test_two_of_one_name_are_told_by_their_paths(
    tmp_path: Path, start: StartHead, job_dir_of: Callable[..., Plan]
) -> None:
    start(tmp_path / "a" / "c", 1)
    second = start(tmp_path / "b" / "c", 2)
    with pytest.raises(UsageError, match=rf"cluster 'c': could be 2: {tmp_path}/a/c, {tmp_path}/b/c; name one with -c"):
        select_cluster("c", tmp_path)
    assert select_cluster("b/c", tmp_path).plan == second
    job_dir_of(tmp_path / "d" / "e", 3)
    running = start(tmp_path / "f" / "e", 4)
    assert select_cluster("e", tmp_path / "d", allow_ended=True).plan == running


@pytest.mark.usefixtures("home")
def test_in_its_job_directory_it_is_that_one(tmp_path: Path, start: StartHead, job_dir_of: Callable[..., Plan]) -> None:
    start(tmp_path / "c", 1)
    ended = job_dir_of(tmp_path / "d", 2)
    where = tmp_path / "d" / "run"
    with pytest.raises(UsageError, match=r"cluster 'd': it has ended; its output is in .*/d/out"):
        select_cluster(None, where)
    assert select_cluster(None, where, allow_ended=True).plan == ended
    assert select_cluster("d", tmp_path, allow_ended=True).plan == ended
    assert select_cluster("..", where, allow_ended=True).name == "d"


@pytest.mark.usefixtures("home")
def test_paths_that_are_no_job_directory_are_told(tmp_path: Path, job_dir_of: Callable[..., Plan]) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").touch()
    starting = job_dir_of(tmp_path / "starting")
    Path(JobDir(Path(starting.job_dir)).plan).unlink()
    broken = job_dir_of(tmp_path / "broken")
    Path(JobDir(Path(broken.job_dir)).plan).write_text("{")
    linked = job_dir_of(tmp_path / "linked")
    plan = Path(JobDir(Path(linked.job_dir)).plan)
    plan.rename(tmp_path / "elsewhere")
    plan.symlink_to(tmp_path / "elsewhere")
    for name, cause in {
        "plain": "not one of yours that this tool made",
        "file": "not one of yours that this tool made",
        "nothing": "not there",
        "starting": "its cluster is only just being started",
        "broken": "can't read the plan",
        "linked": "Too many levels of symbolic links",
    }.items():
        with pytest.raises(UsageError, match=f"^job directory '{tmp_path}/{name}': {cause}"):
            select_cluster(f"./{name}", tmp_path, allow_ended=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's directory")
@pytest.mark.usefixtures("home")
def test_a_job_directory_of_another_user_is_none(tmp_path: Path, job_dir_of: Callable[..., Plan]) -> None:
    job_dir_of(tmp_path / "theirs")
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(UsageError, match="not one of yours"):
        select_cluster("./theirs", tmp_path, allow_ended=True)
    with pytest.raises(UsageError, match="no cluster of yours runs"):
        select_cluster(None, tmp_path / "theirs" / "run", allow_ended=True)
