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
from chslurm.host.lock import check_unlocked, hold_lock, is_held, renew_lease


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
        monkeypatch.setattr(lock, "read_machine", lambda: f"machine {threading.get_ident()} {time.monotonic_ns()}")
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
    lease = leave_behind(path, lock.read_machine(), 0)
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


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize("ahead_s", [-1000.0, 1000.0])
def test_ages_are_told_by_the_clock_of_the_file_system(
    path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    true_time = time.time
    dead, living = leave_behind(path, "another", 61), lease_of(path, 8)
    monkeypatch.setattr(time, "time", lambda: true_time() + ahead_s)
    with hold_lock(path, lease_of(path), "folder"):
        assert not dead.exists()
    living.write_text("another\nprocess 8 on cn001\n")
    os.utime(living, (true_time() - 20,) * 2)
    with pytest.raises(UsageError, match=r"process 8 on cn001.* try again in (39|40) s"):
        hold_lock(path, lease_of(path), "folder").__enter__()
    assert living.exists()


def test_who_looks_calls_no_head_dead_by_his_own_clock_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_time, asked = time.time, []

    def read_clock() -> float:
        asked.append(true_time())
        return asked[-1]

    path.touch()
    leave_behind(path, "another", 20)
    assert is_held(path, lease_of(path, 9), read_clock=read_clock)
    assert asked == []
    monkeypatch.setattr(time, "time", lambda: true_time() + 1000)
    assert is_held(path, lease_of(path, 9), read_clock=read_clock)
    assert len(asked) == 1
    os.utime(lease_of(path, 9), (true_time() - 61,) * 2)
    assert not is_held(path, lease_of(path, 9), read_clock=read_clock)
    assert is_held(path, lease_of(path, 9), silent_s=1100)


def test_a_lease_that_is_damaged_counts_by_its_age(path: Path) -> None:
    lease_of(path, 9).write_bytes(b"\xff\0")
    with pytest.raises(UsageError, match="another cluster runs in it"):
        check_unlocked(path, "folder")


@pytest.mark.usefixtures("locks")
def test_who_looks_sees_the_holder_and_keeps_nobody_out(path: Path) -> None:
    assert not is_held(path, lease_of(path))
    with hold_lock(path, lease_of(path), "folder"):
        assert is_held(path, lease_of(path))
        assert not is_held(path, lease_of(path, 2))
    assert not is_held(path, lease_of(path))


def test_looking_all_the_time_keeps_nobody_out(path: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_held(path, lease_of(path, 9))

    leave_behind(path, lock.read_machine(), 0)  # so that a look goes as far as the lock
    path.touch()
    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 9):
            with hold_lock(path, lease_of(path, number), "folder"):
                leave_behind(path, lock.read_machine(), 0)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_suspended_head_counts_as_living_where_its_lock_is_seen(path: Path) -> None:
    with hold_lock(path, lease_of(path), "folder"):
        os.utime(lease_of(path), (time.time() - 600,) * 2)
        assert is_held(path, lease_of(path))


def test_a_dead_head_counts_as_living_elsewhere_until_its_lease_has_aged(path: Path) -> None:
    path.touch()
    leave_behind(path, lock.read_machine(), 0)
    assert not is_held(path, lease_of(path, 9))
    leave_behind(path, "another", 50)
    assert is_held(path, lease_of(path, 9))
    leave_behind(path, "another", 61)
    assert not is_held(path, lease_of(path, 9))
