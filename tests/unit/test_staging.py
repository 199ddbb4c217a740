# SPDX-License-Identifier: Apache-2.0
"""The job directory on a real file system: made, filled, used again, left."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chslurm.errors import ChslurmError, UsageError
from chslurm.host.files import find_data, write_file
from chslurm.host.keymaking import make_host_identity
from chslurm.host.keys import make_token, read_cluster_keys
from chslurm.host.staging import check_job_dir, renew_job_dir, start_job_dir
from chslurm.jobdir import JobDir
from chslurm.plan import Job, Plan


@pytest.fixture
def plan(plan_of: Callable[..., Plan], tmp_path: Path) -> Plan:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    made = plan_of(2, 2)
    return dataclasses.replace(
        made, job_dir=str(tmp_path / "charlie, 1"), job=Job(str(script), (), interactive=False, name="charlie")
    )


@pytest.fixture(params=[0o000, 0o022, 0o077])
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
        keys, opt = (place(plan.cluster_id) for place in (JobDir(root).keys, JobDir(root).opt))
        assert made == plan
        assert mode_of(Path(keys)) == 0o700
        assert {mode_of(path) for path in Path(keys).iterdir()} == {0o600}
    assert {path.name for path in root.iterdir()} == {".chslurm", "meta", "out", "run"}
    assert {path.name for path in (root / "meta").iterdir()} == {
        *("guest-count", "guests", "guest-macs", "hosts", "hostfile", "host-userdata", "proxy.sh", "resolv.conf"),
        *("jobscript", "sync", "test"),
    }
    assert os.readlink(opt / "bookworm") == "linux"
    assert {path.name for path in find_data("guest").glob("*.sh")} == {
        path.name for path in Path(opt / "linux").iterdir()
    }
    assert (root / ".chslurm").read_text() == f"{plan.cluster_id}\n"


@pytest.mark.usefixtures("umask")
def test_only_what_guests_see_can_be_read_by_others(plan: Plan) -> None:
    root = Path(plan.job_dir)
    for _ in range(2):  # new, and used again after somebody opened it
        with start_job_dir(plan, reuse=True):
            modes = {str(path.relative_to(root)): mode_of(path) for path in root.rglob("*") if not path.is_symlink()}
            opt = JobDir(root).opt(plan.cluster_id).relative_to(root)
            script = modes.pop("meta/jobscript")
            assert {mode for name, mode in modes.items() if name.startswith(str(opt))} == {0o755}
            assert modes["meta"] == modes["meta/sync"] == modes["meta/test"] == 0o755
            assert {mode for name, mode in modes.items() if name.startswith("meta/") and "." in name} == {0o644}
            assert script == mode_of(Path(str(plan.job.script)))
            private = {name: mode for name, mode in modes.items() if not name.startswith(("meta", str(opt)))}
            assert [name for name, mode in private.items() if mode & 0o077] == []
            assert mode_of(root) == 0o700
        Path(root / "out/step.out").touch()
        for path in (root, root / "run", root / "out", root / "out/step.out"):
            path.chmod(0o777)
        (root / "meta/sync").chmod(0)
    with start_job_dir(plan, reuse=True):
        assert mode_of(root / "out/step.out") == 0o600


def test_nothing_secret_stays(plan: Plan) -> None:
    with start_job_dir(plan, reuse=True):
        pass
    files = [path for path in Path(plan.job_dir).rglob("*") if path.is_file()]
    assert [path for path in files if path.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY")] == []
    assert not Path(JobDir(Path(plan.job_dir)).keys(plan.cluster_id)).exists()


def test_two_of_the_same_second_get_two_directories(plan: Plan) -> None:
    with start_job_dir(plan, reuse=False) as one, start_job_dir(plan, reuse=False) as two:
        assert one.job_dir == plan.job_dir
        assert two.job_dir == f"{plan.job_dir}.2"


def test_used_again_only_our_own_files_are_replaced(plan: Plan, plan_of: Callable[..., Plan]) -> None:
    with start_job_dir(plan, reuse=True):
        pass
    root = Path(plan.job_dir)
    old_keys = "run/keys.0000000000000000/ca"
    ours = [
        "meta/interactive",
        "meta/sync/0.jobdone",
        "run/1.overlay.qcow2",
        "run/summary.json",
        "out/3_job.out",
        "out/0_console.first.out",
        "out/0_oneguest.before.out",
        old_keys,
    ]
    theirs = [
        "notes",
        "meta/notes",
        "meta/test/x",
        "run/notes",
        "out/result.out",
        "out/1_job.out.bak",
    ]
    kept = ["out/0_console.out", "out/step.out"]
    (root / old_keys).parent.mkdir()
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


@pytest.mark.parametrize("name", ["run", "meta", "out", "meta/sync"])
def test_a_link_in_place_of_a_folder_is_refused(plan: Plan, tmp_path: Path, name: str) -> None:
    with start_job_dir(plan, reuse=True):
        pass
    (Path(plan.job_dir) / name).rename(tmp_path / "elsewhere")
    (Path(plan.job_dir) / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ChslurmError, match="a symbolic link"), start_job_dir(plan, reuse=True):
        pass


def test_what_guests_left_in_sync_is_cleared(plan: Plan, tmp_path: Path) -> None:
    with start_job_dir(plan, reuse=True):
        pass
    sync = Path(plan.job_dir) / "meta/sync"
    (sync / "0.jobready/below").mkdir(parents=True)
    (sync / "0.jobdone.new").touch()
    (sync / "0.jobdone").symlink_to(tmp_path)
    with start_job_dir(plan, reuse=True):
        assert list(sync.iterdir()) == []
    assert Path(str(plan.job.script)).exists()


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


def test_an_edited_job_script_reaches_the_guests(plan: Plan) -> None:
    script = Path(str(plan.job.script))
    with start_job_dir(plan, reuse=True) as made:
        jobscript = Path(JobDir(Path(made.job_dir)).jobscript)
        assert jobscript.samefile(script)
        assert not renew_job_dir(made)
        write_file(script, b"#!/bin/sh\nexit 3\n", 0o700)  # as editors do: another file takes its name
        assert renew_job_dir(made)
        assert jobscript.samefile(script)
        script.unlink()
        assert not renew_job_dir(made)
        assert "exit 3" in jobscript.read_text()


def test_a_cluster_that_lost_its_directory_ends(plan: Plan) -> None:
    with start_job_dir(plan, reuse=True) as made:
        Path(JobDir(Path(made.job_dir)).lease(made.cluster_id)).unlink()
        with pytest.raises(ChslurmError, match="another cluster took it"):
            renew_job_dir(made)


def test_where_no_link_is_possible_a_copy_is_made_and_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    script = Path(str(plan.job.script))
    with start_job_dir(plan, reuse=True) as made:
        assert any("is a copy (Operation not permitted)" in warning for warning in made.warnings)
        jobscript = Path(JobDir(Path(made.job_dir)).jobscript)
        assert mode_of(jobscript) == mode_of(script)
        assert not renew_job_dir(made)
        script.write_text("#!/bin/sh\nexit 4\n")
        assert renew_job_dir(made)
        assert jobscript.read_text() == script.read_text()


def test_keys_belong_to_one_cluster(plan: Plan) -> None:
    with start_job_dir(plan, reuse=True):
        first = read_cluster_keys(JobDir(Path(plan.job_dir)).keys(plan.cluster_id))
    with start_job_dir(plan, reuse=True):
        second = read_cluster_keys(JobDir(Path(plan.job_dir)).keys(plan.cluster_id))
    assert not {first.authority, first.private, first.known_hosts} & {
        second.authority,
        second.private,
        second.known_hosts,
    }
    identity = make_host_identity(plan, plan.guests[1], first)
    assert identity.private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert identity.certificate.startswith("ssh-ed25519-cert-v01@openssh.com ")
    assert make_token(first, "a") != make_token(first, "b") != make_token(second, "b")
