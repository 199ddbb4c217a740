# SPDX-License-Identifier: Apache-2.0
"""The story of looking at clusters: find them, read what their heads wrote down, print what their guests say."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path, PurePath

from chslurm.errors import UsageError
from chslurm.guestlist import check_guests
from chslurm.host.clusters import Cluster, Entry, read_cluster, read_register
from chslurm.host.follow import FollowedFile, read_journal, read_summary
from chslurm.host.slurm import JobState, read_jobs
from chslurm.host.staging import read_marker
from chslurm.meta import make_guest_name
from chslurm.plan import Mode, Plan
from chslurm.sanitize import Interleaver, Sanitizer
from chslurm.survey import Survey, make_survey

_LOOK_S = 0.25
"""How often a file is looked at when it is followed; with many files more seldom, by _LOOK_EACH_S for each."""

_LOOK_EACH_S = 0.01
_ALIVE_S = 1.0
"""How often a follower looks whether the cluster still runs."""

_QUIET_S = 1.0
"""A line without an end is shown when nothing was added to it for so long: it may be a prompt."""

_TURN_BYTES = 1 << 20
"""So much of a file that is followed is printed before the next has its turn."""


class LogKind(StrEnum):
    """Which of a guest's files."""

    CONSOLE = "console"
    JOB = "job"
    ERRORS = "err"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Listing:
    """One cluster in a list. What can't be known from here is None."""

    name: str
    cluster_id: str
    mode: Mode
    host: str  # of the workstation, or the first of the nodes
    slurm_job_id: str
    slurm_state: str | None
    running: bool
    state: str
    ready: int | None
    guests: int | None
    created: str
    age_s: float
    left_s: float | None  # until the first limit that is known
    job_dir: str


def list_clusters(ended_in: Path | None) -> list[Listing]:
    """Return the user's clusters that run, and those that have ended whose job directories are in this folder."""
    register = read_register()
    clusters = list(register.clusters)
    if ended_in is not None:
        known = {cluster.plan.cluster_id for cluster in clusters}
        clusters += [cluster for cluster in _find_below(ended_in) if cluster.plan.cluster_id not in known]
    in_slurm = any(cluster.plan.mode is Mode.CLUSTER and cluster.running for cluster in clusters)
    jobs = read_jobs() if in_slurm else {}
    listings = [list_cluster(cluster, survey_cluster(cluster), jobs) for cluster in clusters]
    return listings + [_list_hidden(entry) for entry in register.hidden]


def list_cluster(cluster: Cluster, survey: Survey, jobs: dict[str, JobState]) -> Listing:
    """Return one cluster as it stands in a list; `jobs` as SLURM tells them."""
    plan = cluster.plan
    job = jobs.get(plan.slurm_job_id) if cluster.running else None
    created_s = datetime.fromisoformat(plan.created).timestamp()
    return Listing(
        name=cluster.name,
        cluster_id=plan.cluster_id,
        mode=plan.mode,
        host=plan.hosts[0].name,
        slurm_job_id=plan.slurm_job_id,
        slurm_state=job.state if job else None,
        running=cluster.running,
        state=survey.state,
        ready=survey.ready,
        guests=len(plan.guests),
        created=plan.created,
        age_s=round(time.time() - created_s, 1),
        left_s=_find_left(plan, job, created_s) if cluster.running else None,
        job_dir=plan.job_dir,
    )


def survey_cluster(cluster: Cluster) -> Survey:
    """Return what the head wrote down of its cluster."""
    summary = read_summary(cluster.job_dir.summary, cluster.plan)
    return make_survey(cluster.plan, read_journal(cluster.job_dir.events), summary, running=cluster.running)


def read_cluster_jobs(cluster: Cluster) -> dict[str, JobState]:
    """Return what SLURM tells of jobs, when that matters for this cluster."""
    return read_jobs() if cluster.running and cluster.plan.mode is Mode.CLUSTER else {}


def _find_below(parent: Path) -> Iterable[Cluster]:
    with suppress(OSError):
        for folder in sorted(path for path in parent.iterdir() if read_marker(path) is not None):
            with suppress(UsageError):
                yield read_cluster(folder)


def _find_left(plan: Plan, job: JobState | None, created_s: float) -> float | None:
    now_s = time.time()
    ends = [] if plan.time_limit_s is None else [created_s + plan.time_limit_s - now_s]
    if job is not None:
        ends += [] if job.left_s is None else [job.left_s]
    elif plan.end_time_unix_s is not None:
        ends.append(plan.end_time_unix_s - now_s)
    return max(0.0, round(min(ends), 1)) if ends else None


def _list_hidden(entry: Entry) -> Listing:
    """A cluster whose job directory is on the disk of another node."""
    return Listing(
        name=PurePath(entry.job_dir).name,
        cluster_id=entry.cluster_id,
        mode=Mode.CLUSTER if entry.slurm_job_id else Mode.WORKSTATION,
        host=entry.host,
        slurm_job_id=entry.slurm_job_id,
        slurm_state=None,
        running=True,
        state="elsewhere" if entry.host != socket.gethostname() else "unknown",
        ready=None,
        guests=None,
        created=datetime.fromtimestamp(entry.started_unix_s).astimezone().isoformat(timespec="seconds"),
        age_s=round(time.time() - entry.started_unix_s, 1),
        left_s=None,
        job_dir=entry.job_dir,
    )


# -- logs -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Source:
    """One file on its way to the terminal."""

    label: str
    file: FollowedFile
    sanitizer: Sanitizer = field(default_factory=Sanitizer)
    last_s: float = 0.0  # when something came

    def take(self, most_bytes: int) -> tuple[str, int]:
        """Return the next text, and how many bytes were read for it: 0 when there is nothing new."""
        data, anew = self.file.read(most_bytes)
        before = ""
        if anew:
            before, self.sanitizer = self.sanitizer.finish(), Sanitizer()
            before += "\n" if before else ""
        if data:
            self.last_s = time.monotonic()
        return before + self.sanitizer.feed(data), len(data)


def choose_logs(
    cluster: Cluster, kinds: tuple[LogKind, ...], guests: tuple[int, ...] | None
) -> list[tuple[str, PurePath]]:
    """Return labels and paths of files; of all guests when none are named.

    Without kinds it is the job's output and errors, where there is a job, else the consoles. Raises UsageError for a
    guest that is not there.
    """
    plan, job_dir = cluster.plan, cluster.job_dir
    check_guests(plan, *(guests or ()))
    batch = plan.job.script is not None and not plan.job.interactive
    chosen = kinds or ((LogKind.JOB, LogKind.ERRORS) if batch else (LogKind.CONSOLE,))
    place = {
        LogKind.CONSOLE: job_dir.console,
        LogKind.JOB: job_dir.job_output,
        LogKind.ERRORS: job_dir.job_errors,
        LogKind.HOST: job_dir.guest_log,
    }
    plain = LogKind.JOB if LogKind.JOB in chosen else chosen[0]
    logs = [
        (make_guest_name(guest) + ("" if kind is plain else f" {kind}"), place[kind](guest))
        for guest in (guests if guests is not None else range(len(plan.guests)))
        for kind in chosen
    ]
    if LogKind.HOST in chosen and guests is None:
        helpers = sorted(Path(job_dir.out).glob("net_*.out"))
        logs += [(path.name.removesuffix(".out"), path) for path in (*helpers, job_dir.step_log)]
    return logs


def print_logs(
    cluster: Cluster, logs: list[tuple[str, PurePath]], write: Callable[[str], None], *, lines: int | None, follow: bool
) -> None:
    """Write what is in these files, from the last `lines` lines of each on; with `follow` until the cluster has ended.

    Without `follow` it ends however fast guests print: what is added to a file while it is shown is left out. When a
    directory is used again while it is followed, it goes on with the new cluster.
    """
    several = len(logs) > 1
    sources = [_Source(f"{label}: " if several else "", FollowedFile(path)) for label, path in logs]
    merge = Interleaver()
    for source in sources:
        if lines is not None:
            source.file.skip_to_last(lines)
        _drain(source, merge, write, source.file.measure_new())
        if not follow:
            write(merge.add(source.label, source.sanitizer.finish()))
    if follow:
        _follow(Path(cluster.plan.job_dir), sources, merge, write)
    write(merge.end())


def _follow(root: Path, sources: list[_Source], merge: Interleaver, write: Callable[[str], None]) -> None:
    next_look_s = 0.0
    running = True
    while running:
        if time.monotonic() >= next_look_s:
            running = _is_running(root)
            next_look_s = time.monotonic() + _ALIVE_S
        busy = [
            _drain(source, merge, write, _TURN_BYTES if running else source.file.measure_new()) for source in sources
        ]
        for source in sources:
            if time.monotonic() - source.last_s > _QUIET_S:
                write(merge.add(source.label, source.sanitizer.flush()))
        if running and not any(busy):
            time.sleep(max(_LOOK_S, _LOOK_EACH_S * len(sources)))
    for source in sources:
        write(merge.add(source.label, source.sanitizer.finish()))


def _is_running(root: Path) -> bool:
    try:
        return read_cluster(root).running
    except UsageError:  # gone; or being used again: then soon there is a plan
        return (root / ".chslurm").exists() and not Path(root, "run", "plan.json").exists()


def _drain(source: _Source, merge: Interleaver, write: Callable[[str], None], most_bytes: int) -> bool:
    """Write what there is, of so many bytes at most; say whether there may be more."""
    while most_bytes > 0:
        text, size = source.take(most_bytes)
        write(merge.add(source.label, text))
        if not size:
            return False
        most_bytes -= size
    return True
