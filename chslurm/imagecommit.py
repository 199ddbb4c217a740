# SPDX-License-Identifier: Apache-2.0
"""STORIES of a commit: at the end of a cluster that was started with --commit, and by hand from a job directory."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from errno import ENOENT
from pathlib import Path, PurePath

import chslurm
from chslurm.commit import choose_guest, find_objection, find_unclean, shown_path
from chslurm.errors import ChslurmError, UsageError
from chslurm.history import make_commit_entry
from chslurm.host.commit import Commit, ImageChanged, commit_overlay
from chslurm.host.files import write_file
from chslurm.host.history import find_doer, read_history
from chslurm.host.lock import LeaseLost, hold_lock, make_renewal
from chslurm.host.rescue import save_guest
from chslurm.host.staging import check_job_dir
from chslurm.host.target import check_target
from chslurm.jobdir import JobDir
from chslurm.phases import Cause, judge_signal
from chslurm.plan import Layer, Plan, plan_from_json
from chslurm.report import CommitReport, Summary, parse_summary, summary_to_json, with_commit
from chslurm.units import quote, render_size

_BEHIND_S = 60.0
"""How long the head's view of a shared file system may lag behind what a node has written (NFS: up to 60 s)."""

_GAP_S = 10.0
"""Progress is told no more often than this."""

Say = Callable[[str], None]


def commit_in_the_end(
    plan: Plan, summary: Summary, say: Say, *, held: Sequence[int], stops: Sequence[signal.Signals]
) -> Summary:
    """Commit the guest of --commit, unless something speaks against it, and return the summary with what came of it.

    `held` are descriptors of the image's files since the plan was made. `stops` gets a signal when the user or SLURM
    wants the end; whenever that is, the image is then not changed.
    """
    assert plan.commit_guest is not None
    guest = plan.commit_guest
    image = plan.image.layers[0]
    job_dir = JobDir(Path(plan.job_dir))
    overlay = Path(job_dir.overlay(guest))
    renew = make_renewal(job_dir.lease(plan.cluster_id), _name(job_dir), plan.deadlines.beat_s)

    def tick() -> None:
        if stops:
            raise ChslurmError(f"stopped: {find_cause()} ({stops[0].name})")
        renew()

    def find_cause() -> Cause:
        return judge_signal(stops[0], plan.end_time_unix_s, time.time()) if stops else Cause.COMMIT

    try:
        if objection := find_objection(plan, summary, guest):
            raise ChslurmError(objection)
        tick()
        _wait_for(overlay, _BEHIND_S if plan.disks.overlay_dir else 0.0, tick)
        new = _commit(plan, guest, say, tick)
    except LeaseLost:
        raise
    except ChslurmError as error:
        text = _explain(plan, guest, error, unclean=find_unclean(summary.guests[guest]) is not None)
        if isinstance(error, ImageChanged) and not stops:
            text += _save(plan, guest, held, tick)
        return with_commit(summary, CommitReport(guest, text, image), find_cause())
    return with_commit(summary, CommitReport(guest, "", image, new))


def commit_by_hand(folder: Path, wanted: int | None, say: Say, *, force: bool) -> None:
    """Commit a guest's overlay that was kept in a job directory to the image it was made over.

    With `force` also that of a guest of which nobody knows that it shut itself down. Raises UsageError when that is no
    job directory with such an overlay, ChslurmError when it can't be committed.
    """
    job_dir = JobDir(folder)
    name = _name(job_dir)
    if not folder.exists():
        raise UsageError(f"{name}: No such file or directory")
    check_job_dir(folder)
    lease = job_dir.lease(secrets.token_hex(8))
    with _locked(job_dir, lease, name):
        plan = replace(plan_from_json(_read(job_dir.plan, name)), job_dir=str(folder))  # it may have been moved
        overlays = [guest.id for guest in plan.guests if Path(job_dir.overlay(guest.id)).exists()]
        guest = choose_guest(overlays, wanted, plan.commit_guest, name)
        summary = None if force and not Path(job_dir.summary).exists() else _read_summary(job_dir, plan, name)
        if not force and summary is not None and (objection := find_unclean(summary.guests[guest])):
            hint = "its file system may not be whole; --force commits it all the same"
            raise UsageError(f"can't commit guest {guest}: {objection}", hint=hint)
        check_target(plan.image)
        try:
            new = _commit(plan, guest, say, make_renewal(lease, name, plan.deadlines.beat_s))
        except LeaseLost:
            raise
        except ChslurmError as error:
            raise ChslurmError(_explain(plan, guest, error)) from error
        if summary is not None:
            report = CommitReport(guest, "", plan.image.layers[0], new)
            with suppress(OSError):
                write_file(job_dir.summary, summary_to_json(replace(summary, commit=report)))


def _name(job_dir: JobDir) -> str:
    return f"job directory {quote(str(job_dir.root))}"


@contextmanager
def _locked(job_dir: JobDir, lease: PurePath, name: str) -> Iterator[None]:
    """Keep clusters out of a job directory. Raises UsageError when one runs in it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(job_dir.lock, lease, name))
        except OSError as error:
            raise ChslurmError(f"{name}: {error.strerror}") from error
        yield


def _read_summary(job_dir: JobDir, plan: Plan, name: str) -> Summary:
    summary = parse_summary(_read(job_dir.summary, name), plan)
    if summary is None:
        hint = "move run/summary.json away; --force then goes on without one"
        raise UsageError(f"{name}: its summary is damaged, or of another cluster than its plan", hint=hint)
    return summary


def _read(path: PurePath, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        hint = "its cluster has not come to its end; --force goes on without a summary" if error.errno == ENOENT else ""
        raise UsageError(f"{name}: {path.name}: {error.strerror}", hint=hint) from error


def _commit(plan: Plan, guest: int, say: Say, tick: Callable[[], None]) -> Layer:
    image, cwd = plan.image, _current_directory()
    told_s = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() >= told_s + _GAP_S:
            told_s = time.monotonic()
            say(f"{render_size(done >> 20)} of about {render_size(total >> 20)} written")

    if len(image.layers) > 1:
        say(f"the new image is one file; it does not need {image.layers[1].path} any more")
    job = Commit(
        image=image,
        overlay=Path(JobDir(Path(plan.job_dir)).overlay(guest)),
        shown=lambda path: shown_path(path, cwd),
        say=say,
        tick=tick,
        progress=tell,
        entry=lambda kernel: make_commit_entry(
            plan, guest, now=datetime.now(UTC), by=find_doer(), version=chslurm.__version__, kernel=kernel
        ),
    )
    return commit_overlay(job)


def _explain(plan: Plan, guest: int, error: ChslurmError, *, unclean: bool = False) -> str:
    """Say in one line what was not done, why, and what is left to do."""
    cwd = _current_directory()
    overlay = Path(JobDir(Path(plan.job_dir)).overlay(guest))
    name = f"can't commit guest {guest} to {shown_path(Path(plan.image.path), cwd)}"
    if _is_committed(plan, guest):
        return f"{name}: this guest is in it already, by its history"
    words = [f"{name}: {error.message}", error.hint, "its overlay is gone"]
    if overlay.exists():
        words[2] = f"kept: {shown_path(overlay, cwd)}"
        if not isinstance(error, ImageChanged):
            force, risk = ("--force ", ", whose file system may not be whole") if unclean else ("", "")
            words.append(f"by hand: chslurm image commit {force}{shown_path(Path(plan.job_dir), cwd)} {guest}{risk}")
    return "; ".join(filter(None, words))


def _is_committed(plan: Plan, guest: int) -> bool:
    entries = None
    with suppress(ChslurmError, OSError):
        entries = read_history(Path(plan.image.path), plan.image.format)
    return any((entry.cluster_id, entry.guest) == (plan.cluster_id, guest) for entry in entries or ())


def _save(plan: Plan, guest: int, held: Sequence[int], tick: Callable[[], None]) -> str:
    """Save what the guest changed from an image that was replaced; return what to say about it."""
    job_dir = JobDir(Path(plan.job_dir))
    target = Path(job_dir.saved_image(guest, plan.image.format))
    try:
        saved = save_guest(plan.image, Path(job_dir.overlay(guest)), held, target, tick)
    except LeaseLost:
        raise
    except (ChslurmError, OSError) as error:
        return f"; can't save what it changed: {error}"
    return f"; saved whole, as an image of its own: {shown_path(target, _current_directory())}" if saved else ""


def _wait_for(overlay: Path, patience_s: float, tick: Callable[[], None]) -> None:
    """Wait until an overlay that a node has brought home is seen here, too. A listing is less stale than a look."""
    deadline_s = time.monotonic() + patience_s
    while not _is_listed(overlay):
        if time.monotonic() > deadline_s:
            raise ChslurmError("its node could not bring the overlay to the job directory, or dropped it in a hurry")
        tick()
        time.sleep(0.5)


def _is_listed(path: Path) -> bool:
    try:
        return path.name in os.listdir(path.parent)
    except OSError as error:
        raise ChslurmError(f"{error.strerror}: {path.parent}") from error


def _current_directory() -> Path | None:
    with suppress(OSError):
        return Path.cwd()
    return None
