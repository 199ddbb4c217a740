# SPDX-License-Identifier: Apache-2.0
"""Files that others read and write, on a real file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from chslurm.errors import ChslurmError
from chslurm.host import sharedfiles
from chslurm.host.files import clear_folder, open_append, write_file
from chslurm.host.keys import read_cluster_keys
from chslurm.host.sharedfiles import read_plan
from chslurm.plan import Plan, plan_digest, plan_to_json


def test_the_plan_is_read_back_or_refused(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, path = plan_of(), tmp_path / "plan.json"
    write_file(path, plan_to_json(plan))
    digest = plan_digest(path.read_bytes())
    assert read_plan(path, cluster_id=plan.cluster_id, digest=digest) == plan
    with pytest.raises(ChslurmError, match="is of cluster 0123456789abcdef, not other"):
        read_plan(path, cluster_id="other", digest=digest)
    monkeypatch.setattr(sharedfiles, "_PATIENCE_S", 0.0)
    with pytest.raises(ChslurmError, match="not what the head wrote"):
        read_plan(path, cluster_id=plan.cluster_id, digest="0" * 64)
    with pytest.raises(ChslurmError, match="not there"):
        read_plan(path.with_name("none"), cluster_id=plan.cluster_id, digest=digest)


def test_a_file_is_only_added_to(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        for word in (b"one ", b"two"):
            with open_append(tmp_path / "log") as log:
                log.write(word)
    finally:
        os.umask(old)
    assert (tmp_path / "log").read_bytes() == b"one two"
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_only_files_are_added_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("link", "dangling", "fifo", "."):
        with pytest.raises(OSError, match=name):
            open_append(tmp_path / name)
    os.close(reader)
    assert (tmp_path / "precious").read_text() == "keep"
    assert not (tmp_path / "new").exists()


def test_whatever_a_stranger_left_is_cleared(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o755)
    (precious / "file").write_text("keep")
    folder = tmp_path / "folder"
    (folder / "a/b/c").mkdir(parents=True)
    for path in (folder / "file", folder / "a/li\nne", folder / os.fsdecode(b"\xff"), folder / "a/b/c/.hidden"):
        path.touch(mode=0)
    for path in (folder / "to file", folder / "a/b/to folder"):
        path.symlink_to(precious)
    os.mkfifo(folder / "a/fifo")
    for path in (folder / "a/b/c", folder / "a/b", folder / "a"):
        path.chmod(0)
    deep = os.open(folder, os.O_RDONLY)
    for _ in range(3000):  # deeper than names and the stack reach
        os.mkdir("deep", dir_fd=deep)
        below = os.open("deep", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    clear_folder(folder)
    assert list(folder.iterdir()) == []
    assert (precious / "file").read_text() == "keep"
    assert stat.S_IMODE(precious.stat().st_mode) == 0o755


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChslurmError, match="can't read the cluster's keys"):
        read_cluster_keys(tmp_path)
