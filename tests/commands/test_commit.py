# SPDX-License-Identifier: Apache-2.0
"""A guest's changes become part of its image, or nothing changes at all: with real disks, without guests."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kept import BOOT_AT, MIB, Kept, digest, make_kept, run, write

from chslurm.errors import ChslurmError, UsageError
from chslurm.flatten import make_aside_name
from chslurm.history import Entry, make_commit_entry
from chslurm.host.commit import Commit, commit_overlay
from chslurm.host.history import read_history
from chslurm.host.lock import LeaseLost, hold_lock
from chslurm.host.place import read_image
from chslurm.host.rescue import hold_layers, save_guest
from chslurm.host.target import check_target
from chslurm.imagecommit import commit_by_hand, commit_in_the_end
from chslurm.phases import Cause
from chslurm.plan import Plan, plan_to_json
from chslurm.report import Summary

MakeKept = Callable[..., Kept]


@pytest.fixture
def kept_of(tmp_path: Path, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> MakeKept:
    """Return a function that makes an image and a job directory in the current directory."""
    monkeypatch.chdir(tmp_path)
    return lambda **options: make_kept(tmp_path, plan_of, **options)


@pytest.fixture
def kept(kept_of: MakeKept) -> Kept:
    return kept_of()


def commit_of(kept: Kept, **fields: object) -> Commit:
    def entry(kernel: str) -> Entry:
        return make_commit_entry(
            kept.plan, 0, now=datetime(2026, 1, 2, tzinfo=UTC), by="me", version="1", kernel=kernel
        )

    commit = Commit(kept.plan.image, kept.overlay, str, lambda _: None, lambda: None, lambda *_: None, entry)
    return replace(commit, **fields)  # type: ignore[arg-type]


def at_the_end(kept: Kept, *stops: signal.Signals) -> tuple[Summary, list[str]]:
    """What the head does when its cluster is over."""
    said: list[str] = []
    summary = kept.summary()
    with hold_layers(kept.plan.image) as held, held_job_dir(kept):
        return commit_in_the_end(kept.plan, summary, said.append, held=held, stops=stops), said


def held_job_dir(kept: Kept) -> AbstractContextManager[None]:
    """As the head holds it."""
    return hold_lock(kept.job_dir.lock, kept.job_dir.lease(kept.plan.cluster_id), "job directory")


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_the_image_becomes_what_the_guest_saw(kept_of: MakeKept, image_format: str, nameless: bool) -> None:
    kept = kept_of(image_format=image_format)
    kept.image.chmod(0o640)
    was, wanted = kept.image.stat(), digest(kept.overlay, "qcow2")
    new = commit_overlay(commit_of(kept, image=read_image(kept.image), nameless=nameless))
    assert digest(kept.image, image_format) == wanted
    now = kept.image.stat()
    assert (now.st_mode, now.st_uid, now.st_gid) == (was.st_mode, was.st_uid, was.st_gid)
    assert now.st_ino != was.st_ino
    image = read_image(kept.image)
    assert image.layers == (new,), "in the same format, without a layer below"
    assert not kept.overlay.exists()
    assert sorted(path.name for path in kept.folder.iterdir()) == ["charlie", "image.img"]


def test_what_is_said_and_kept_of_it(kept: Kept) -> None:
    summary, said = at_the_end(kept)
    aside = r"\./\.chslurm-commit\.[0-9a-f]{8}\.[0-9a-f]{8}"
    assert re.fullmatch(
        rf"\$ qemu-img convert -f qcow2 \./charlie/run/0\.overlay\.qcow2 -O qcow2 {aside}\n"
        rf"\$ mv {aside} \./image\.img\n"
        r"Image committed\.\n"
        r"deleted \./charlie/run/0\.overlay\.qcow2",
        "\n".join(said),
    )
    assert (summary.cause, summary.exit_status) == (Cause.SHUTDOWN, 0)
    assert summary.commit is not None
    assert summary.commit.old == kept.plan.image.layers[0]
    assert summary.commit.new == read_image(kept.image).layers[0]


def test_how_paths_are_told_is_only_told(kept: Kept) -> None:
    said: list[str] = []
    commit_overlay(commit_of(kept, shown=lambda path: f"<{path.name[:9]}>", say=said.append))
    assert said[0] == "$ qemu-img convert -f qcow2 '<0.overlay>' -O qcow2 '<.chslurm->'"


def test_an_image_of_several_layers_becomes_one_file(kept: Kept) -> None:
    base = kept.image.rename(kept.folder / "base.img")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "qcow2", kept.image)
    plan = replace(kept.plan, image=read_image(kept.image))
    layered, was = Kept(kept.folder, kept.image, kept.job_dir, plan), digest(base, "qcow2")
    wanted = digest(kept.overlay, "qcow2")
    _, said = at_the_end(layered)
    assert said[0] == f"the new image is one file; it does not need {base} any more"
    assert (digest(kept.image, "qcow2"), digest(base, "qcow2")) == (wanted, was)
    assert len(read_image(kept.image).layers) == 1


def test_options_of_the_format_are_kept(kept: Kept) -> None:
    odd = ("-c", "-o", "cluster_size=128k,compression_type=zstd")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", *odd, kept.image, "odd")
    Path("odd").rename(kept.image)
    commit_overlay(commit_of(kept, image=read_image(kept.image)))
    info = run("qemu-img", "info", "-f", "qcow2", kept.image)
    assert "cluster_size: 131072" in info
    assert "compression type: zstd" in info
    assert int(re.findall(r'"compressed-clusters": (\d+)', run("qemu-img", "check", "--output=json", kept.image))[0])


def test_each_commit_adds_to_the_history_in_the_image(kept_of: MakeKept) -> None:
    kept = kept_of(boot=True)
    assert read_history(kept.image, "qcow2") == ()
    at_the_end(kept)
    (first,) = read_history(kept.image, "qcow2") or ()
    assert (first.guest, first.cluster_id, first.job_dir) == (0, kept.plan.cluster_id, kept.plan.job_dir)
    assert first.source is not None
    assert first.source.inode == kept.plan.image.layers[0].inode
    again = replace(kept.plan, image=read_image(kept.image), cluster_id="f" * 16)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", kept.image, "-F", "qcow2", kept.overlay)
    later = replace(kept, plan=again)
    later.end()
    at_the_end(later)
    assert [entry.cluster_id for entry in read_history(kept.image, "qcow2") or ()] == [first.cluster_id, "f" * 16]


def test_without_a_boot_partition_there_is_no_history(kept: Kept) -> None:
    at_the_end(kept)
    assert read_history(kept.image, "qcow2") is None


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_file_system_in_a_partition_named_boot_stays_whole(kept_of: MakeKept, image_format: str) -> None:
    """As other systems have it for /boot."""
    kept = kept_of(boot=True, image_format=image_format)
    run("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-b", "4096", "boot.ext4", "255M")
    foreign = Path("boot.ext4").read_bytes()
    write(kept.image, image_format, BOOT_AT, foreign[: 2 * MIB])
    image = read_image(kept.image)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", kept.image, "-F", image_format, kept.overlay)
    summary, said = at_the_end(replace(kept, plan=replace(kept.plan, image=image)))
    assert "Image committed." in said, summary.text
    assert read_history(kept.image, image_format) is None
    run("qemu-img", "convert", "-f", image_format, "-O", "raw", kept.image, "raw")
    with Path("raw").open("rb") as file:
        file.seek(BOOT_AT)
        assert file.read(2 * MIB) == foreign[: 2 * MIB]


# -- what is refused, and changes nothing -----------------------------------------------------------------------------


@contextmanager
def unchanged(kept: Kept) -> Iterator[None]:
    before = [(path.stat().st_ino, digest(path, "qcow2")) for path in (kept.image, kept.overlay)]
    yield
    assert [(path.stat().st_ino, digest(path, "qcow2")) for path in (kept.image, kept.overlay)] == before
    assert sorted(path.name for path in kept.folder.iterdir()) == ["charlie", "image.img"]


def refusal(kept: Kept, *stops: signal.Signals) -> str:
    """Why the image was not changed; that is the cause of the cluster's end then."""
    with unchanged(kept):
        summary, said = at_the_end(kept, *stops)
    assert not any("committed" in line for line in said)
    assert summary.commit is not None
    assert summary.commit.new is None
    assert summary.text == summary.commit.text
    assert "\n" not in summary.text
    assert summary.text.startswith("can't commit guest 0 to ./image.img: ")
    assert "; kept: ./charlie/run/0.overlay.qcow2" in summary.text
    changed = "not the file that was planned with" in summary.text
    unclean = "it did not shut down" in summary.text
    advice = "--force ./charlie 0, whose file system may not be whole" if unclean else "./charlie 0"
    assert summary.text.endswith(f"; by hand: chslurm image commit {advice}") != changed
    if not stops:
        assert (summary.cause, summary.exit_status) == (Cause.COMMIT, 70)
    return f"{summary.exit_status} {summary.text}"


def test_a_guest_that_did_not_shut_down(kept: Kept) -> None:
    kept.end(clean=False, end="QEMU was ended by a signal")
    assert "it did not shut down: QEMU was ended by a signal" in refusal(kept)


@pytest.mark.parametrize(
    ("number", "left_s", "status", "words"),
    [
        (signal.SIGINT, None, 130, "interrupted (SIGINT)"),
        (signal.SIGHUP, 0, 143, "cancelled (SIGHUP)"),
        (signal.SIGTERM, None, 143, "cancelled (SIGTERM)"),
        (signal.SIGTERM, 100, 143, "cancelled (SIGTERM)"),
        (signal.SIGTERM, 0, 124, "time limit (SIGTERM)"),
    ],
)
def test_stopped_in_the_end(kept: Kept, number: signal.Signals, left_s: float | None, status: int, words: str) -> None:
    end = None if left_s is None else time.time() + left_s
    text = refusal(replace(kept, plan=replace(kept.plan, end_time_unix_s=end)), number)
    assert text.startswith(f"{status} ")
    assert f": stopped: {words}; kept: " in text


def test_an_image_that_was_touched(kept: Kept) -> None:
    os.utime(kept.image)
    assert "image.img: not the file that was planned with; the overlay fits no other" in refusal(kept)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_an_image_that_was_replaced_and_what_is_saved_then(kept_of: MakeKept, image_format: str) -> None:
    kept = kept_of(image_format=image_format)
    wanted = digest(kept.overlay, "qcow2")
    run("qemu-img", "create", "-q", "-f", image_format, "other", "20M")
    summary = kept.summary()
    with hold_layers(kept.plan.image) as held, held_job_dir(kept):
        Path("other").rename(kept.image)
        other = digest(kept.image, image_format)
        summary = commit_in_the_end(kept.plan, summary, print, held=held, stops=())
    assert (summary.cause, summary.exit_status) == (Cause.COMMIT, 70)
    name = f"./charlie/run/0.saved.{image_format}"
    assert "not the file that was planned with" in summary.text
    assert summary.text.endswith(f"; saved whole, as an image of its own: {name}")
    assert digest(Path(name), image_format) == wanted
    assert digest(kept.image, image_format) == other
    assert kept.overlay.exists()


def test_an_image_that_was_taken_away(kept: Kept) -> None:
    wanted = digest(kept.overlay, "qcow2")
    summary = kept.summary()
    with hold_layers(kept.plan.image) as held, held_job_dir(kept):
        kept.image.unlink()
        summary = commit_in_the_end(kept.plan, summary, print, held=held, stops=())
    assert re.search(r"image\.img: No such file.*; saved whole, .*: ./charlie/run/0\.saved\.qcow2$", summary.text)
    assert digest(kept.folder / "charlie/run/0.saved.qcow2", "qcow2") == wanted


def test_an_overlay_that_did_not_come_home(kept: Kept) -> None:
    kept.overlay.unlink()
    summary, _ = at_the_end(kept)
    assert (summary.cause, summary.exit_status) == (Cause.COMMIT, 70)
    end = "its node could not bring the overlay to the job directory, or dropped it in a hurry; its overlay is gone"
    assert summary.text == f"can't commit guest 0 to ./image.img: {end}"


def test_an_image_that_a_program_writes_to(kept: Kept) -> None:
    with start_qemu_io(kept.image) as _:
        assert "a program is writing to it; wait until they have ended" in refusal(kept)


def test_an_image_that_another_commit_holds(kept: Kept) -> None:
    with kept.image.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another commit to it is going on" in refusal(kept)


def test_an_overlay_of_another_image(kept: Kept) -> None:
    run("cp", kept.image, "other.img")
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", kept.folder / "other.img", kept.overlay)
    Path("other.img").rename(Path("charlie/other.img"))
    with pytest.raises(ChslurmError, match=r"is not an overlay of it, but of .*/other\.img"):
        commit_overlay(commit_of(kept))


def test_a_damaged_overlay(kept: Kept) -> None:
    os.truncate(kept.overlay, kept.overlay.stat().st_size // 2)
    image = digest(kept.image, "qcow2")
    with pytest.raises(ChslurmError, match=r"0\.overlay\.qcow2 (is damaged|can't be checked)"):
        commit_overlay(commit_of(kept))
    assert digest(kept.image, "qcow2") == image
    assert kept.overlay.exists()


def test_a_guest_whose_qemu_still_runs(kept: Kept) -> None:
    with start_qemu_io(kept.overlay):
        assert "0.overlay.qcow2: a QEMU still writes to it" in refusal(kept)


def test_a_guest_that_damaged_its_kernels(kept_of: MakeKept) -> None:
    kept = kept_of(boot=True)
    header = f"CHSLURM-BOOT 1 1 5000 {'0' * 64} 6.1\n".encode().ljust(4096, b"\0")
    write(kept.overlay, "qcow2", 1 << 20, header)
    assert "its boot bundle is damaged" in refusal(kept)


@pytest.mark.parametrize("nameless", [True, False])
def test_stopped_while_it_is_written(kept: Kept, nameless: bool) -> None:
    def stop() -> None:
        raise ChslurmError("stopped")

    with unchanged(kept), pytest.raises(ChslurmError, match="stopped"):
        commit_overlay(commit_of(kept, nameless=nameless, tick=stop))


def test_guests_of_the_old_image_go_on_with_it(kept: Kept) -> None:
    """On a local file system; across the network they would lose it, so it is refused there."""
    other = kept.folder / "charlie" / "other.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", kept.image, "-F", "qcow2", other)
    with start_qemu_io(other) as (ask, _):
        before = ask("read -v 8M 16")
        said: list[str] = []
        commit_overlay(commit_of(kept, say=said.append))
        assert "guests that run from the old image go on with it; the next cluster gets the new one" in said
        assert "11 11 11" in before
        assert ask("read -v 8M 16") == before
    fresh = kept.folder / "charlie" / "fresh.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", kept.image, "-F", "qcow2", fresh)
    assert "22 22 22" in run("qemu-io", "-f", "qcow2", "-c", "read -v 8M 16", fresh)


def test_users_across_the_network_are_in_the_way(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chslurm.host.commit.is_shared", lambda _: True)
    other = kept.folder / "charlie" / "other.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", kept.image, "-F", "qcow2", other)
    with start_qemu_io(other):
        assert "guests run from it, and on this file system they would lose it" in refusal(kept)


def test_locks_that_are_of_the_whole_file_are_not_in_our_own_way(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS makes of flock what fcntl does; QEMU's programs then may not look for locks."""
    monkeypatch.setattr("chslurm.host.commit.is_shared", lambda _: True)
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: fcntl.lockf(fd, how))
    wanted = digest(kept.overlay, "qcow2")
    commit_overlay(commit_of(kept))
    assert digest(kept.image, "qcow2") == wanted


def test_what_killed_commits_to_this_image_left_is_removed(kept: Kept) -> None:
    stale, others = (kept.folder / make_aside_name(Path(name), "01234567") for name in ("image.img", "other.img"))
    for path in (stale, others):
        path.write_text("x")
    commit_overlay(commit_of(kept))
    assert (stale.exists(), others.exists()) == (False, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("nameless", [True, False])
def test_a_full_file_system(kept_of: MakeKept, tmp_path: Path, nameless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=34M", "none", small], check=False).returncode:
        pytest.skip("may not mount")
    try:
        kept = kept_of(mib=12)
        run("cp", kept.image, small)
        image = small / "image.img"
        plan = replace(kept.plan, image=read_image(image))
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", image, kept.overlay)
        there = Kept(kept.folder, image, kept.job_dir, plan)
        before = digest_elsewhere(image, tmp_path)
        (small / "ballast").write_bytes(b"x" * (7 << 20))
        with pytest.raises(ChslurmError, match=r"too little space in .*small: .* needed, .* free"):
            commit_overlay(commit_of(there, nameless=nameless))
        monkeypatch.setattr("chslurm.host.commit.check_room", lambda *_: None)  # it fills up while it is written
        with pytest.raises(ChslurmError, match="No space left on device"):
            commit_overlay(commit_of(there, nameless=nameless))
        assert sorted(path.name for path in small.iterdir()) == ["ballast", "image.img"]
        assert digest_elsewhere(image, tmp_path) == before
        (small / "ballast").unlink()
        commit_overlay(commit_of(there, nameless=nameless))
        assert digest_elsewhere(image, tmp_path) != before
    finally:
        run("umount", small)


def digest_elsewhere(image: Path, folder: Path) -> str:
    """Of a copy, for want of room beside it."""
    copy = folder / "copy-of-image"
    run("cp", image, copy)
    found = digest(copy, "qcow2")
    copy.unlink()
    return found


def test_of_two_commits_at_once_one_is_made(kept: Kept) -> None:
    """Two guests of two clusters of one image, both ended well."""
    other = kept.folder / "other"
    run("cp", "-r", kept.folder / "charlie", other)
    (other / "run" / "plan.json").write_bytes(plan_to_json(replace(kept.plan, cluster_id="f" * 16, job_dir=str(other))))
    text = (other / "run" / "summary.json").read_text().replace(kept.plan.cluster_id, "f" * 16)
    (other / "run" / "summary.json").write_text(text)
    wanted = digest(kept.overlay, "qcow2")
    argv = [sys.executable, "-m", "chslurm.cli.main", "image", "commit"]
    started = [
        subprocess.Popen([*argv, folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for folder in ("charlie", "other")
    ]
    outputs = [process.communicate(timeout=60)[0] for process in started]
    statuses = [process.returncode for process in started]
    assert sorted(statuses) == [0, 70], outputs
    loser = outputs[statuses.index(70)]
    assert re.search("another commit|not the file that was planned with", loser), loser
    assert digest(kept.image, "qcow2") == wanted
    overlays = [(kept.folder / name / "run" / "0.overlay.qcow2").exists() for name in ("charlie", "other")]
    assert overlays == [status == 70 for status in statuses], "that of the loser is kept"


# -- by hand ----------------------------------------------------------------------------------------------------------


def by_hand(kept: Kept, guest: int | None = None, *, force: bool = False) -> list[str]:
    said: list[str] = []
    commit_by_hand(Path(kept.job_dir.root), guest, said.append, force=force)
    return said


def test_by_hand(kept: Kept) -> None:
    said = by_hand(kept)
    assert said[-2:] == ["Image committed.", "deleted ./charlie/run/0.overlay.qcow2"]
    summary = kept.summary()
    assert summary.commit is not None
    assert summary.commit.new == read_image(kept.image).layers[0]
    with pytest.raises(UsageError, match="no overlay of guest 0; overlays are there of guests: none"):
        by_hand(kept)


def test_by_hand_what_did_not_end_well_only_by_force(kept: Kept) -> None:
    kept.end(clean=False, end="kernel panic")
    with unchanged(kept), pytest.raises(UsageError, match=r"it did not shut down: kernel panic; .*--force"):
        by_hand(kept)
    Path(kept.job_dir.summary).unlink()
    with unchanged(kept), pytest.raises(UsageError, match=r"summary\.json: No such file.*--force"):
        by_hand(kept)
    assert "Image committed." in by_hand(kept, force=True)


def test_by_hand_not_while_a_cluster_runs(kept: Kept) -> None:
    with open(kept.job_dir.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another cluster runs in it"):
            by_hand(kept)


def test_by_hand_what_is_committed_already_is_said(kept_of: MakeKept) -> None:
    """The launcher was killed between the image's renaming and the overlay's deletion."""
    kept = kept_of(boot=True)
    run("cp", kept.overlay, "overlay")
    by_hand(kept)
    Path("overlay").rename(kept.overlay)
    with pytest.raises(ChslurmError, match="this guest is in it already"):
        by_hand(kept)


def test_by_hand_an_image_that_is_gone_is_named(kept: Kept) -> None:
    kept.image.unlink()
    with pytest.raises(UsageError, match=r"image '/.*/image\.img': No such file or directory; bring it back"):
        by_hand(kept)
    assert kept.overlay.exists()


# -- the job directory stays ours meanwhile, and what takes long can be stopped ---------------------------------------


def find_leases(kept: Kept) -> list[Path]:
    return list(Path(kept.job_dir.run).glob("lock.*"))


@pytest.mark.parametrize("by_hand", [False, True])
def test_life_is_shown_while_it_is_written(kept: Kept, by_hand: bool) -> None:
    """Where the lock is not seen on other nodes a lease of a minute ago is nobody's."""
    ages: list[float] = []

    def say(line: str) -> None:
        """Whatever is told, the lease is old; when the next line is told it is not."""
        (lease,) = find_leases(kept)
        ages.append(time.time() - lease.stat().st_mtime)
        os.utime(lease, (0, 0))

    plan = replace(kept.plan, deadlines=replace(kept.plan.deadlines, beat_s=0))
    Path(kept.job_dir.plan).write_bytes(plan_to_json(plan))
    if by_hand:
        commit_by_hand(Path(kept.job_dir.root), 0, say, force=False)
    else:
        summary = kept.summary()
        with held_job_dir(kept):
            commit_in_the_end(plan, summary, say, held=(), stops=())
    assert len(ages) == 4
    assert max(ages[:2]) < 60, "before it is written, and before the image is replaced"


@pytest.mark.parametrize("by_hand", [False, True])
def test_who_lost_the_job_directory_touches_nothing(kept: Kept, by_hand: bool) -> None:
    def lose(line: str) -> None:
        if "convert" in line:
            for lease in find_leases(kept):
                lease.unlink()

    plan = replace(kept.plan, deadlines=replace(kept.plan.deadlines, beat_s=0))
    Path(kept.job_dir.plan).write_bytes(plan_to_json(plan))
    summary = kept.summary()

    def commit() -> None:
        if by_hand:
            commit_by_hand(Path(kept.job_dir.root), 0, lose, force=False)
        with held_job_dir(kept):
            commit_in_the_end(plan, summary, lose, held=(), stops=())

    with unchanged(kept), pytest.raises(LeaseLost, match="another cluster took it"):
        commit()


def save(kept: Kept, *, tick: Callable[[], None] = lambda: None) -> bool:
    target = Path(kept.job_dir.saved_image(0, "qcow2"))
    with hold_layers(kept.plan.image) as held:
        return save_guest(kept.plan.image, kept.overlay, held, target, tick)


def test_saving_shows_life_and_can_be_stopped(kept: Kept) -> None:
    def stop() -> None:
        raise ChslurmError("stopped")

    before = sorted(os.listdir(kept.job_dir.run))
    with pytest.raises(ChslurmError, match="stopped"):
        save(kept, tick=stop)
    assert sorted(os.listdir(kept.job_dir.run)) == before


def test_saving_wants_room(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chslurm.host.rescue.read_free", lambda _: 1000)
    with pytest.raises(ChslurmError, match=r"too little space in .*/run: 13 MiB needed, 0 MiB free; make room there"):
        save(kept)


def test_nothing_is_saved_in_a_hurry(kept: Kept) -> None:
    """The signal comes while it is looked for what became of the image."""
    stops: list[signal.Signals] = []
    summary = kept.summary()

    def replaced(_: object) -> None:
        stops.append(signal.SIGTERM)
        raise ChslurmError("can't use image: not the file that was planned with")

    with pytest.MonkeyPatch.context() as patch, hold_layers(kept.plan.image) as held, held_job_dir(kept):
        patch.setattr("chslurm.host.commit.check_unchanged", replaced)
        summary = commit_in_the_end(kept.plan, summary, print, held=held, stops=stops)
    assert (summary.cause, summary.exit_status) == (Cause.CANCELLED, 143)
    assert "save" not in summary.text
    assert not list(Path(kept.job_dir.run).glob("*saved*"))
    assert kept.overlay.exists()


@pytest.mark.parametrize("text", ["{}", "torn", '{"cluster_id": "other"}'])
def test_by_hand_a_summary_that_is_none(kept: Kept, text: str) -> None:
    Path(kept.job_dir.summary).write_text(text)
    for force in (False, True):
        with unchanged(kept), pytest.raises(UsageError, match="its summary is damaged, or of another cluster"):
            by_hand(kept, force=force)


@pytest.mark.parametrize("guest", [1, 7])
def test_by_hand_a_guest_that_there_is_not(kept: Kept, guest: int) -> None:
    with pytest.raises(UsageError, match=f"no overlay of guest {guest}; overlays are there of guests: 0"):
        by_hand(kept, guest)


def test_by_hand_what_is_no_job_directory(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            commit_by_hand(folder, None, print, force=False)


# -- before anything is started ---------------------------------------------------------------------------------------


def test_a_linked_image_is_replaced_where_it_lies(kept: Kept) -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/link").symlink_to(kept.image)
    image = read_image(Path("elsewhere/link"))
    check_target(image)
    commit_overlay(commit_of(kept, image=image))
    assert Path("elsewhere/link").is_symlink()
    assert os.path.samefile("elsewhere/link", kept.image)
    assert os.listdir("elsewhere") == ["link"]


def test_hard_links_are_refused(kept: Kept) -> None:
    os.link(kept.image, "second")
    with pytest.raises(UsageError, match="2 names"):
        check_target(read_image(kept.image))


def test_snapshots_in_the_image_are_refused(kept: Kept) -> None:
    run("qemu-img", "snapshot", "-c", "mine", kept.image)
    with pytest.raises(UsageError, match="holds 1 snapshots of its own; they would be lost: qemu-img snapshot -d mine"):
        check_target(read_image(kept.image))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_rights_are_needed_before(kept: Kept, plan_of: Callable[..., Plan]) -> None:
    image = read_image(kept.image)
    kept.folder.chmod(0o777)
    for parent in kept.folder.parents[:-2]:
        parent.chmod(0o755)

    def refused(uid: int) -> str:
        os.setegid(uid)
        os.seteuid(uid)
        try:
            check_target(image)
        except UsageError as error:
            return str(error)
        finally:
            os.seteuid(0)
            os.setegid(0)
        return ""

    kept.image.chmod(0o644)
    assert "not writable" in refused(12345)
    kept.image.chmod(0o666)
    assert "belongs to another user (uid 0)" in refused(12345)
    os.chown(kept.image, 12345, 0)
    assert "belongs to a group that you are not in" in refused(12345)
    os.chown(kept.image, 12345, 12345)
    kept.folder.chmod(0o755)
    assert "folder is not writable" in refused(12345)
    kept.folder.chmod(0o777)
    assert refused(12345) == ""


def test_too_little_space_is_told_before(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chslurm.host.target.read_free", lambda _: 1000)
    with pytest.raises(UsageError, match=r"too little space in .*: 9 MiB needed, 0 MiB free"):
        check_target(read_image(kept.image))


@contextmanager
def start_qemu_io(disk: Path) -> Iterator[tuple[Callable[[str], str], subprocess.Popen[str]]]:
    """A program of QEMU's that has a disk open for writing, and does what it is told."""
    pipe = subprocess.PIPE
    argv = ["stdbuf", "-o0", "qemu-io", "-f", "qcow2", str(disk)]
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(command: str) -> str:
            stdin.write(f"{command}\n")
            stdin.flush()
            lines: list[str] = []
            while not lines or "ops/sec" not in lines[-1]:
                lines.append(stdout.readline())
            return "".join(line for line in lines if "ops" not in line)

        ask("read 0 512")
        yield ask, process
        stdin.close()
        process.wait(timeout=20)
