# SPDX-License-Identifier: Apache-2.0
"""The job directory on a real file system: made, filled, used again, locked."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chslurm.errors import ChslurmError, UsageError
from chslurm.host import files
from chslurm.host.files import check_job_dir, read_plan, renew_jobscript, start_job_dir, write_file
from chslurm.host.keymaking import make_host_identity
from chslurm.host.keys import make_token, read_cluster_keys
from chslurm.jobdir import JobDir
from chslurm.plan import Job, Plan, plan_digest


@pytest.fixture
def plan(plan_of: Callable[..., Plan], tmp_path: Path) -> Plan:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    made = plan_of(2, 2)
    return dataclasses.replace(
        made, job_dir=str(tmp_path / "charlie, 1"), job=Job(str(script), (), interactive=False, name="charlie")
    )


@pytest.fixture(params=[0o000, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_a_fresh_directory(plan: Plan) -> None:
    with start_job_dir(plan, reuse=False) as made:
        root = Path(made.job_dir)
        assert made == plan
    assert {path.name for path in root.iterdir()} == {".chslurm", "meta", "out", "run"}
    assert mode_of(root) == mode_of(root / "run") == mode_of(root / "out") == mode_of(root / "run/keys") == 0o700
    assert {mode_of(path) for path in (root / "run/keys").iterdir()} == {0o600}
    assert {path.name for path in (root / "meta").iterdir()} == {
        *("guest-count", "guests", "guest-macs", "hosts", "hostfile", "host-userdata", "proxy.sh", "resolv.conf"),
        *("jobscript", "sync", "test"),
    }
    readable = [path for path in (root / "meta").iterdir() if path.is_file() and path.name != "jobscript"]
    assert {mode_of(path) for path in readable} == {0o644}
    assert mode_of(root / "meta") == 0o755
    opt = root / "run/opt"
    assert os.readlink(opt / "bookworm") == "linux"
    assert {path.name for path in files.find_data("guest").glob("*.sh")} == {
        path.name for path in (opt / "linux").iterdir()
    }
    assert (root / ".chslurm").read_text() == f"{plan.cluster_id}\n"


def test_the_plan_is_read_back_or_refused(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_job_dir(plan, reuse=False):
        path = Path(JobDir(Path(plan.job_dir)).plan)
    digest = plan_digest(path.read_bytes())
    assert read_plan(path, cluster_id=plan.cluster_id, digest=digest) == plan
    with pytest.raises(ChslurmError, match="is of cluster 0123456789abcdef, not other"):
        read_plan(path, cluster_id="other", digest=digest)
    monkeypatch.setattr(files, "_PATIENCE_S", 0.0)
    with pytest.raises(ChslurmError, match="not what the head wrote"):
        read_plan(path, cluster_id=plan.cluster_id, digest="0" * 64)
    with pytest.raises(ChslurmError, match="not there"):
        read_plan(path.with_name("none"), cluster_id=plan.cluster_id, digest=digest)


def test_two_of_the_same_second_get_two_directories(plan: Plan) -> None:
    with start_job_dir(plan, reuse=False) as one, start_job_dir(plan, reuse=False) as two:
        assert one.job_dir == plan.job_dir
        assert two.job_dir == f"{plan.job_dir}.2"


def test_used_again_only_our_own_files_are_replaced(plan: Plan, plan_of: Callable[..., Plan]) -> None:
    with start_job_dir(plan, reuse=True):
        pass
    root = Path(plan.job_dir)
    ours = ["meta/interactive", "meta/sync/0.jobdone", "run/1.overlay.qcow2", "run/summary.json", "out/3_job.out"]
    theirs = [
        "notes",
        "meta/notes",
        "meta/sync/mine",
        "meta/test/x",
        "run/notes",
        "out/result.out",
        "out/1_job.out.bak",
    ]
    kept = ["out/0_console.out", "out/step.out"]
    for name in (*ours, *theirs, *kept):
        (root / name).write_text("old")
    inode = (root / kept[0]).stat().st_ino
    with (root / kept[0]).open("a"):
        small = dataclasses.replace(plan_of(1, 1), job_dir=plan.job_dir, cluster_id="f" * 16, job=plan.job)
        with start_job_dir(small, reuse=True):
            pass
    assert not [name for name in ours if (root / name).exists()]
    assert [name for name in theirs if (root / name).read_text() == "old"] == theirs
    assert [(root / name).read_text() for name in kept] == ["", ""]
    assert (root / kept[0]).stat().st_ino == inode, "tail -F keeps following"
    assert (root / "meta/guests").read_text() == "chgu0\n"
    assert (root / ".chslurm").read_text() == "f" * 16 + "\n"


def test_links_in_place_of_our_files_are_not_followed(plan: Plan, tmp_path: Path) -> None:
    with start_job_dir(plan, reuse=True):
        pass
    root, precious = Path(plan.job_dir), tmp_path / "precious"
    precious.write_text("keep")
    for name in ("out/0_job.out", "meta/guests", "run/0.overlay.qcow2", "run/plan.json"):
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(precious)
    with start_job_dir(plan, reuse=True):
        pass
    assert precious.read_text() == "keep"


def test_a_directory_of_somebody_else_is_refused(plan: Plan) -> None:
    root = Path(plan.job_dir)
    root.mkdir()
    (root / "thesis").write_text("1")
    with pytest.raises(UsageError, match="not one of yours that this tool made"), start_job_dir(plan, reuse=True):
        pass
    (root / ".chslurm").symlink_to(root / "thesis")
    with pytest.raises(UsageError, match="not one of yours"):
        check_job_dir(root)
    (root / ".chslurm").unlink()
    assert [path.name for path in root.iterdir()] == ["thesis"]


@pytest.mark.parametrize("name", ["job.sh", "none/below", "job.sh/below"])
def test_places_where_nothing_can_be_made(plan: Plan, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="job directory"):
        check_job_dir(tmp_path / name)


def test_a_running_cluster_keeps_its_directory(plan: Plan) -> None:
    with start_job_dir(plan, reuse=True):
        for attempt in (lambda: check_job_dir(Path(plan.job_dir)), lambda: start_job_dir(plan, reuse=True).__enter__()):
            with pytest.raises(UsageError, match="another cluster runs in it"):
                attempt()
    check_job_dir(Path(plan.job_dir))


def test_without_locks_a_lease_keeps_it(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    lease = Path(plan.job_dir) / "run/lock.lease"
    with start_job_dir(plan, reuse=True):
        assert lease.exists()
        with pytest.raises(UsageError, match=r"if none runs, remove .*lock\.lease"):
            check_job_dir(Path(plan.job_dir))
    assert not lease.exists()
    lease.write_text(f"{socket.gethostname()} 999999999\n")  # its process is gone
    check_job_dir(Path(plan.job_dir))
    lease.write_text("another-host 1\n")
    with pytest.raises(UsageError, match="another cluster"):
        check_job_dir(Path(plan.job_dir))


def test_an_edited_job_script_reaches_the_guests(plan: Plan) -> None:
    script = Path(str(plan.job.script))
    with start_job_dir(plan, reuse=True) as made:
        jobscript = Path(JobDir(Path(made.job_dir)).jobscript)
        assert jobscript.samefile(script)
        assert not renew_jobscript(made)
        write_file(script, b"#!/bin/sh\nexit 3\n", 0o700)  # as editors do: another file takes its name
        assert renew_jobscript(made)
        assert jobscript.samefile(script)
        script.unlink()
        assert not renew_jobscript(made)
        assert "exit 3" in jobscript.read_text()


def test_where_no_link_is_possible_a_copy_is_made_and_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    script = Path(str(plan.job.script))
    with start_job_dir(plan, reuse=True) as made:
        assert any("is a copy (Operation not permitted)" in warning for warning in made.warnings)
        jobscript = Path(JobDir(Path(made.job_dir)).jobscript)
        assert mode_of(jobscript) == mode_of(script)
        assert not renew_jobscript(made)
        script.write_text("#!/bin/sh\nexit 4\n")
        assert renew_jobscript(made)
        assert jobscript.read_text() == script.read_text()


def test_keys_belong_to_one_cluster(plan: Plan) -> None:
    with start_job_dir(plan, reuse=True):
        first = read_cluster_keys(JobDir(Path(plan.job_dir)).keys)
    with start_job_dir(plan, reuse=True):
        second = read_cluster_keys(JobDir(Path(plan.job_dir)).keys)
    assert not {first.authority, first.private, first.known_hosts} & {
        second.authority,
        second.private,
        second.known_hosts,
    }
    identity = make_host_identity(first, plan.guests[1])
    assert identity.private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert identity.certificate.startswith("ssh-ed25519-cert-v01@openssh.com ")
    assert make_token(first, "a") != make_token(first, "b") != make_token(second, "b")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChslurmError, match="can't read the cluster's keys"):
        read_cluster_keys(tmp_path)
