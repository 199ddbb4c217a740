# SPDX-License-Identifier: Apache-2.0
"""What came of a cluster: exit status, the line that says why, and the summary file."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from chslurm.errors import ExitCode
from chslurm.phases import Cause, GuestPhase
from chslurm.plan import Layer, Plan
from chslurm.supervise import Supervisor

_FIXED = {
    Cause.SHUTDOWN: ExitCode.OK,
    Cause.LOST: ExitCode.MACHINERY,
    Cause.MACHINERY: ExitCode.MACHINERY,
    Cause.TIME_LIMIT: ExitCode.TIME_LIMIT,
    Cause.INTERRUPTED: ExitCode.INTERRUPTED,
    Cause.CANCELLED: ExitCode.CANCELLED,
    Cause.COMMIT: ExitCode.MACHINERY,
}
"""Exit statuses that do not come from the job."""


@dataclass(frozen=True, slots=True)
class GuestReport:
    """How far one guest came, and how it ended. `status` is its job's exit status, None when the job did not end."""

    id: int
    node: str
    phase: str
    status: int | None
    clean: bool = False  # it has shut itself down: its disk can be committed
    end: str = ""


@dataclass(frozen=True, slots=True)
class CommitReport:
    """What came of --commit: `old` and `new` identify the image before and after; `new` None: it is as before."""

    guest: int
    text: str
    old: Layer
    new: Layer | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a cluster, as `run/summary.json` has it."""

    cluster_id: str
    cause: Cause
    exit_status: int
    text: str  # one line for the user; empty when all is well
    elapsed_s: float
    guests: tuple[GuestReport, ...]
    notes: tuple[str, ...]
    commit: CommitReport | None = None
    causes: tuple[str, ...] = ()  # lines of a check-up, when no guest has come up


def make_summary(plan: Plan, end: Supervisor, now_s: float) -> Summary:
    """Return the summary of a cluster that is over: guest 0's status or, when that is 0, the largest of the others."""
    guests = tuple(
        GuestReport(guest.id, plan.host(guest.host).name, str(state.phase), state.status, state.clean, state.end)
        for guest, state in zip(plan.guests, end.guests.values(), strict=True)
    )
    cause = end.cause or Cause.MACHINERY
    status = _job_status(guests) if cause is Cause.JOB else int(_FIXED[cause])
    return Summary(
        cluster_id=plan.cluster_id,
        cause=cause,
        exit_status=status,
        text=end.text,
        elapsed_s=round(now_s - end.started_s, 3),
        guests=guests,
        notes=tuple(end.notes),
    )


def with_commit(summary: Summary, commit: CommitReport, cause: Cause = Cause.COMMIT) -> Summary:
    """Return the summary with what came of the commit. One that failed is the `cause` unless something was before."""
    summary = replace(summary, commit=commit)
    if commit.new is not None or summary.exit_status:
        return summary
    return replace(summary, cause=cause, exit_status=int(_FIXED[cause]), text=commit.text)


def parse_summary(text: bytes, plan: Plan) -> Summary | None:
    """Return the summary that `text` holds; None when it is none, or another cluster's than the plan."""
    try:
        summary = msgspec.json.decode(text, type=Summary)
    except msgspec.MsgspecError:
        return None
    fits = summary.cluster_id == plan.cluster_id and len(summary.guests) == len(plan.guests)
    return summary if fits else None


def summary_to_json(summary: Summary) -> bytes:
    """Return the summary as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n"


def render_summary(summary: Summary) -> list[str]:
    """Return the last lines a user reads: failed guests, the cause, and the end."""
    lines: list[str] = []
    if summary.cause is Cause.JOB:
        lines += [
            f"guest {guest.id} on {guest.node}: job {_ended(guest)}" for guest in summary.guests if guest.status != 0
        ]
    if summary.text:
        lines.append(summary.text)
    if summary.commit is not None and summary.commit.new is None and summary.commit.text != summary.text:
        lines.append(summary.commit.text)
    lines.append(f"cluster ended after {summary.elapsed_s:.1f} s: {summary.cause}, exit status {summary.exit_status}")
    return lines


def _job_status(guests: tuple[GuestReport, ...]) -> int:
    first, *others = (guest.status or 0 for guest in guests)
    return first or max(others, default=0)


def _ended(guest: GuestReport) -> str:
    if guest.status is not None:
        return f"ended with {guest.status}"
    if guest.phase == GuestPhase.RUNNING:
        return "was still running when guest 0 had ended; stopped"
    return f"has no exit status ({guest.phase})"
