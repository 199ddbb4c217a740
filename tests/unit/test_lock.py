# SPDX-License-Identifier: Apache-2.0
"""One cluster in one job directory, with the locks that file systems have: for all nodes, for each alone, or none."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from chslurm.errors import ChslurmError, UsageError
from chslurm.host import lock
from chslurm.host.lock import check_unlocked, hold_lock, renew_lease


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture(params=["locks", "localflock", "no locks"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    if request.param != "locks":
        monkeypatch.setattr(fcntl, "flock", no_locks if request.param == "no locks" else lambda *_: None)
        # Another node: its locks are not seen here, and its processes neither.
        monkeypatch.setattr(lock, "_machine", lambda: f"machine {threading.get_ident()} {time.monotonic_ns()}")
    return str(request.param)


def lease_of(path: Path, number: int = 1) -> Path:
    return path.with_name(f"lock.{number:016x}")


@pytest.mark.usefixtures("locks")
def test_there_is_one_holder(path: Path) -> None:
    with hold_lock(path, lease_of(path, 1), "folder"):
        words = r"folder: another cluster runs in it \(process \d+ on .* since .*\); use another name"
        with pytest.raises(UsageError, match=words), hold_lock(path, lease_of(path, 2), "folder"):
            pass
        with pytest.raises(UsageError, match=words):
            check_unlocked(path, "folder")
        renew_lease(lease_of(path), "folder")
    check_unlocked(path, "folder")
    with hold_lock(path, lease_of(path, 3), "folder"):
        assert [found.name for found in path.parent.glob("lock.*")] == ["lock.0000000000000003"]


@pytest.mark.usefixtures("locks")
def test_of_many_at_once_never_two_hold_it(path: Path) -> None:
    inside, seen, start = [0], [], threading.Barrier(4)

    def attempt(number: int) -> None:
        for turn in range(25):
            start.wait()
            with suppress(UsageError), hold_lock(path, lease_of(path, 100 * number + turn), "folder"):
                inside[0] += 1
                time.sleep(0.001)
                seen.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) <= {1}


def leave_behind(path: Path, machine: str, age_s: float) -> Path:
    """Leave the lease of a head that was killed."""
    lease = lease_of(path, 9)
    lease.write_text(f"{machine}\nprocess 7 on cn001 since yesterday\n")
    os.utime(lease, (time.time() - age_s,) * 2)
    return lease


def test_who_was_killed_here_keeps_nobody_out(path: Path) -> None:
    lease = leave_behind(path, lock._machine(), 0)
    with hold_lock(path, lease_of(path), "folder"):
        assert not lease.exists()


@pytest.mark.usefixtures("locks")
def test_who_was_killed_elsewhere_keeps_others_out_for_a_minute(path: Path) -> None:
    leave_behind(path, "another", 20)
    words = r"process 7 on cn001 .*; if it died, try again in (39|40) s, or remove .*lock\.0"
    with pytest.raises(UsageError, match=words), hold_lock(path, lease_of(path), "folder"):
        pass
    assert not lease_of(path).exists()
    lease = leave_behind(path, "another", 61)
    with hold_lock(path, lease_of(path), "folder"):
        assert not lease.exists()
        with pytest.raises(ChslurmError, match="folder: another cluster took it"):
            renew_lease(lease, "folder")


def test_a_lease_that_is_damaged_counts_by_its_age(path: Path) -> None:
    lease_of(path, 9).write_bytes(b"\xff\0")
    with pytest.raises(UsageError, match="another cluster runs in it"):
        check_unlocked(path, "folder")
