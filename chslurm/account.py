# SPDX-License-Identifier: Apache-2.0
"""What happened in a cluster, as one value: `chslurm report` shows it as a page, a picture, or as it is, in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from chslurm.messages import printable
from chslurm.phases import Cause, GuestPhase
from chslurm.plan import NetworkKind, Plan
from chslurm.survey import Survey
from chslurm.timeline import Doing, GuestLine, Span, Stage, Timeline
from chslurm.units import render_duration

ACCOUNT_FORMAT = 1
"""Raised when a field changes its meaning; fields may be added any time."""

_PATH_MAX = 4096
_MOST_BLAMED = 4
"""Of so many guests the ends of their files are quoted: what is wrong with the rest is the same, or its consequence."""


@dataclass(frozen=True, slots=True)
class HostAccount:
    """One node. Times are seconds from the beginning; None: it did not come to that."""

    number: int
    name: str
    cores: int
    memory_mib: int
    guests: int
    facts: str  # versions of what runs there
    up_s: float | None
    joined_s: float | None
    done_s: float | None


@dataclass(frozen=True, slots=True)
class GuestAccount:
    """One guest."""

    id: int
    name: str
    node: str
    address: str
    cores: int
    ram_mib: int
    state: str  # the last that is known, as `chslurm status` has it
    status: int | None  # of its job
    kernel: str
    end: str  # how it ended, in words
    lost: bool  # it ended before it was to
    ready_s: float | None
    spans: tuple[Span, ...]
    stages: tuple[Stage, ...]

    @property
    def failed(self) -> bool:
        return self.lost or bool(self.status)


@dataclass(frozen=True, slots=True)
class Duration:
    """How long guests were at one thing."""

    what: str
    least_s: float
    median_s: float
    most_s: float
    longest: int  # the guest that took longest


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The end of a file, fit to be shown."""

    file: str  # in the job directory
    text: str
    cut: bool  # there is more before it


@dataclass(frozen=True, slots=True)
class Account:
    """One cluster from its beginning to its end, or to now."""

    format: int
    name: str
    cluster_id: str
    job_dir: str
    version: str  # of chslurm
    mode: str
    slurm_job_id: str
    slurm_version: str
    user: str
    job: str
    image: str
    image_format: str
    history: tuple[str, ...]  # of the image, a line a deed; empty when it has none, or is another by now
    network: str
    created: str  # when the plan was made, UTC
    start_unix_s: float | None  # from when seconds count
    made_unix_s: float  # when this was written
    running: bool
    state: str
    cause: Cause | None
    exit_status: int | None
    text: str
    causes: tuple[str, ...]  # what was found about a launch of which no guest came up
    elapsed_s: float
    hosts: tuple[HostAccount, ...]
    guests: tuple[GuestAccount, ...]
    phases: tuple[Span, ...]
    durations: tuple[Duration, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    excerpts: tuple[Excerpt, ...] = ()

    @property
    def good(self) -> bool:
        """Whether all is well, as far as is known."""
        return self.running or self.exit_status == 0


def make_account(
    plan: Plan,
    survey: Survey,
    timeline: Timeline,
    *,
    name: str,
    history: Iterable[str],
    causes: Iterable[str] = (),
    running: bool,
    now_unix_s: float,
) -> Account:
    """Return what is known of a cluster."""
    job = plan.job.name if plan.job.script is None else plan.job.script
    return Account(
        format=ACCOUNT_FORMAT,
        name=printable(name, _PATH_MAX),
        cluster_id=plan.cluster_id,
        job_dir=printable(plan.job_dir, _PATH_MAX),
        version=printable(plan.version),
        mode=str(plan.mode),
        slurm_job_id=printable(plan.slurm_job_id),
        slurm_version=printable(plan.slurm_version),
        user=printable(plan.user.name),
        job="" if plan.job.interactive else printable(job, _PATH_MAX),
        image=printable(plan.image.path, _PATH_MAX),
        image_format=printable(plan.image.format),
        history=tuple(printable(line, 2 * _PATH_MAX) for line in history),
        network=_describe_network(plan, timeline, survey.notes),
        created=plan.created,
        start_unix_s=timeline.start_unix_s,
        made_unix_s=round(now_unix_s, 3),
        running=running,
        state=survey.state,
        cause=survey.cause,
        exit_status=survey.exit_status,
        text=survey.text,
        causes=tuple(printable(cause, 1000) for cause in causes),
        elapsed_s=timeline.end_s if survey.elapsed_s is None else survey.elapsed_s,
        hosts=tuple(
            HostAccount(
                number=host.number,
                name=printable(host.name),
                cores=host.cores,
                memory_mib=host.memory_mib,
                guests=host.guest_ct,
                facts=line.facts,
                up_s=line.up_s,
                joined_s=line.joined_s,
                done_s=line.done_s,
            )
            for host, line in zip(plan.hosts, timeline.hosts, strict=True)
        ),
        guests=_tell_guests(plan, survey, timeline),
        phases=timeline.phases,
        durations=measure_durations(timeline.guests),
        warnings=tuple(printable(warning, 1000) for warning in plan.warnings),
        notes=survey.notes,
    )


def account_to_json(account: Account) -> bytes:
    """Return the account as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(account), indent=1) + b"\n"


def measure_durations(guests: Sequence[GuestLine]) -> tuple[Duration, ...]:
    """Return how long everything took that a guest was at."""
    lengths: dict[str, list[tuple[float, int]]] = {str(doing): [] for doing in Doing}
    for number, guest in enumerate(guests):
        for span in guest.spans:
            lengths[span.what].append((span.length_s, number))
    return tuple(_measure(what, sorted(found)) for what, found in lengths.items() if found)


def _measure(what: str, found: list[tuple[float, int]]) -> Duration:
    least_s, median_s = found[0][0], found[len(found) // 2][0]
    most_s, longest = found[-1]
    return Duration(what, round(least_s, 3), round(median_s, 3), round(most_s, 3), longest)


def find_blamed(account: Account) -> list[GuestAccount]:
    """Return those guests whose files may tell why it went wrong, the first to fail first."""
    if account.good:
        return []
    failed = [guest for guest in account.guests if guest.failed]
    if not failed and account.cause is not Cause.JOB:  # lost while they started, or all of a sudden
        failed = [guest for guest in account.guests if guest.ready_s is None]
    return sorted(failed, key=_find_end)[:_MOST_BLAMED]


def render_time(unix_s: float) -> str:
    """Return a time for people."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def describe_verdict(account: Account) -> str:
    """Return one line: how it ended, or that it has not."""
    took = f"{account.elapsed_s:.1f} s" if account.elapsed_s < 120 else render_duration(account.elapsed_s)
    if account.running:
        return f"{account.state}, {took} so far"
    if account.exit_status is None:
        return f"{account.state}; nothing is known of what came after {took}"
    return f"{account.state} after {took}: {account.cause}, exit status {account.exit_status}"


def describe_end(guest: GuestAccount, *, running: bool) -> str:
    """Return what became of a guest, in few words."""
    if guest.lost:
        return f"lost: {guest.end}" if guest.end else "lost"
    if guest.status is not None:
        return f"exit status {guest.status}"
    return guest.end if guest.state == GuestPhase.GONE and guest.end else guest.state if running else guest.end


def _find_end(guest: GuestAccount) -> tuple[bool, float, int]:
    return (not guest.lost, guest.spans[-1].end_s, guest.id)


def _tell_guests(plan: Plan, survey: Survey, timeline: Timeline) -> tuple[GuestAccount, ...]:
    return tuple(
        GuestAccount(
            id=guest.id,
            name=view.name,
            node=printable(view.node),
            address=view.address,
            cores=guest.cores,
            ram_mib=guest.ram_mib,
            state=view.state,
            status=view.status,
            kernel=line.kernel,
            end=line.end,
            lost=line.lost,
            ready_s=line.ready_s,
            spans=line.spans,
            stages=line.stages,
        )
        for guest, view, line in zip(plan.guests, survey.guests, timeline.guests, strict=True)
    )


def _describe_network(plan: Plan, timeline: Timeline, notes: Sequence[str]) -> str:
    mtu = next((line.mtu for line in timeline.hosts if line.mtu), 0)
    joined = next((word for word in ("WireGuard", "VXLAN") for note in notes if f"joined by {word}" in note), "")
    kinds = {NetworkKind.SITE: "made by root", NetworkKind.ROOTLESS: "rootless", NetworkKind.AUTO: ""}
    words = [
        kinds[plan.network],
        f"hosts joined by {joined}" if joined else "",
        f"packets of {mtu} bytes" if mtu else "",
    ]
    return ", ".join(filter(None, words))
