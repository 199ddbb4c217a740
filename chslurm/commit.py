# SPDX-License-Identifier: Apache-2.0
"""May what a guest changed become part of its image? Decided here; `flatten` has the commands."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath

from chslurm.errors import UsageError
from chslurm.phases import Cause
from chslurm.plan import Plan
from chslurm.report import GuestReport, Summary

_LOCK_WRITE = 101
_LOCK_READERS = range(100, 300)
"""What QEMU locks of a file it has open (block/file-posix.c): byte 101 is for who writes, any other for who uses it."""

LOCK_BYTES = ((_LOCK_WRITE, 1), (_LOCK_READERS.start, len(_LOCK_READERS)))
"""(offset, length) of what a writer holds locked, and of what any user does."""


@dataclass(frozen=True, slots=True)
class Use:
    """Who has an image open now, as QEMU's locks tell."""

    written: bool
    read: bool


def find_objection(plan: Plan, summary: Summary, guest: int) -> str | None:
    """Return why a guest is not to be committed at the end of its cluster, None when it is.

    Its file system has to be whole, so it must have shut itself down; and the user must want what is in it, so the
    cluster came to its own end, and the guest's job, if there was one, succeeded.
    """
    report = summary.guests[guest]
    if objection := find_unclean(report):
        return objection
    if summary.cause not in (Cause.JOB, Cause.SHUTDOWN):
        return f"the cluster did not come to its end: {summary.cause}"
    if plan.job.interactive or report.status == 0:
        return None
    return "its job had not ended" if report.status is None else f"its job ended with {report.status}"


def find_unclean(report: GuestReport) -> str | None:
    """Return why the file system of a guest may not be whole, None when the guest shut itself down."""
    return None if report.clean else f"it did not shut down: {report.end or report.phase}"


def find_conflict(use: Use, *, shared: bool) -> str | None:
    """Return why an image that is in use can't be replaced. `shared`: it lies on a file system across the network.

    On a local file system those who have the old file open keep it; across the network it may vanish under them.
    """
    if use.written:
        return "a program is writing to it"
    return "guests run from it, and on this file system they would lose it" if use.read and shared else None


def shown_path(path: PurePath, cwd: PurePath | None) -> str:
    """Return a path as users see it: from the current directory when it lies below that, else whole."""
    if cwd is not None and path.is_relative_to(cwd):
        return f"./{path.relative_to(cwd)}"
    return str(path)


def choose_guest(overlays: Collection[int], wanted: int | None, planned: int | None, job_dir: str) -> int:
    """Return which guest of a job directory to commit: the one named, else that of --commit, else the only one.

    Raises UsageError when that is not clear, or its overlay was not kept.
    """
    guest = wanted if wanted is not None else planned
    kept = f"overlays are there of guests: {', '.join(map(str, sorted(overlays))) or 'none'}"
    if guest is None:
        if len(overlays) != 1:
            raise UsageError(f"{job_dir}: which guest?", hint=kept)
        (guest,) = overlays
    if guest not in overlays:
        raise UsageError(f"{job_dir}: no overlay of guest {guest}", hint=kept)
    return guest
