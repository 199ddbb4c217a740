# SPDX-License-Identifier: Apache-2.0
"""The story of a report: files of a job directory -> account -> page, JSON and picture.

Whatever guests wrote is bounded and made printable here; `page` escapes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from chslurm.account import Account, Excerpt, account_to_json, find_blamed, make_account
from chslurm.commit import shown_path
from chslurm.errors import ChslurmError
from chslurm.host.files import find_data, write_file
from chslurm.host.follow import FollowedFile, read_journal, read_summary
from chslurm.jobdir import JobDir, name_first_part, name_part_before
from chslurm.phases import Cause
from chslurm.plan import Plan
from chslurm.report import Summary
from chslurm.sanitize import Sanitizer
from chslurm.survey import make_survey
from chslurm.timeline import Recorder

_JOURNAL_MAX_BYTES = 64 << 20
"""At the end of a run no longer journal is read: that would take a second or more."""

_EXCERPT_LINES = 40
_EXCERPT_BYTES = 16 << 10
_LINE_CHARACTERS = 300


def leave_report(plan: Plan, summary: Summary, *, wanted: bool) -> list[str]:
    """Write the report into the job directory; return what is to be said of it. Nothing that fails here matters."""
    if not wanted:
        return []
    job_dir, cwd = JobDir(Path(plan.job_dir)), _find_cwd()
    try:
        if Path(job_dir.events).stat().st_size > _JOURNAL_MAX_BYTES:
            return [f"report: left out, as so much has happened; chslurm report {plan.job_dir} makes it"]
        account = read_account(plan, running=False, summary=summary)
    except Exception as error:  # of whatever kind: a cluster that went well did so without a report, too
        return [f"warning: {_tell_failure(job_dir.page, error, cwd)}"]
    written = write_reports(account, job_dir, cwd)
    return [*([f"report: {written.where}"] if written.made else []), *(f"warning: {line}" for line in written.failures)]


@dataclass(frozen=True, slots=True)
class Written:
    """What came of a report: which of its files were made, as users see it in `where`, and why others were not."""

    made: tuple[PurePath, ...]
    where: str
    failures: tuple[str, ...]


def write_reports(account: Account, job_dir: JobDir, cwd: Path | None) -> Written:
    """Write page, JSON and picture into the job directory. One that can't be made is no reason to have none."""
    made: list[PurePath] = []
    failures: list[str] = []
    for path, render in zip(job_dir.reports, (render_report, account_to_json, render_picture), strict=True):
        try:
            write_file(path, render(account))
            made.append(path)
        except Exception as error:
            failures.append(_tell_failure(path, error, cwd))
    where = ", also ".join(filter(None, [*(shown_path(path, cwd) for path in made[:1]), _join_suffixes(made[1:])]))
    return Written(tuple(made), where, tuple(failures))


def read_account(plan: Plan, *, running: bool, summary: Summary | None = None) -> Account:
    """Return what is known of a cluster whose head lives or not; `plan.job_dir` is where its files are."""
    job_dir = JobDir(Path(plan.job_dir))
    summary = summary or read_summary(job_dir.summary, plan)
    recorder = Recorder(plan)
    survey = make_survey(plan, recorder.watch(read_journal(job_dir.events)), summary, running=running)
    now_unix_s = time.time()
    timeline = recorder.finish(now_unix_s if running else None)
    account = make_account(
        plan,
        survey,
        timeline,
        name=PurePath(plan.job_dir).name,
        history=_read_history(plan),
        causes=summary.causes if summary else (),
        running=running,
        now_unix_s=now_unix_s,
    )
    return replace(account, excerpts=tuple(_take_excerpts(account, job_dir)))


def render_report(account: Account) -> bytes:
    """Return the page."""
    from chslurm.page import render_page

    return render_page(account, find_data("report.html").read_text(encoding="utf-8")).encode(errors="backslashreplace")


def render_picture(account: Account) -> bytes:
    """Return the chart as PNG. Raises ChslurmError when there is no Pillow, or an old one."""
    from chslurm.chart import MOST_PICTURED, choose_rows, draw_chart
    from chslurm.host.picture import make_png

    return make_png(draw_chart(account, choose_rows(account.guests, MOST_PICTURED), headed=True))


def _tell_failure(path: PurePath, error: Exception, cwd: Path | None) -> str:
    if isinstance(error, ChslurmError):
        return str(error)
    why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"can't make {shown_path(path, cwd)}: {why}"


def _join_suffixes(paths: Sequence[PurePath]) -> str:
    return " and ".join(path.suffix for path in paths)


def _read_history(plan: Plan) -> list[str]:
    """Return the history of the image, if that is still the one that guests ran from."""
    from chslurm.history import render_entry
    from chslurm.host.disks import check_unchanged
    from chslurm.host.history import read_history

    try:
        check_unchanged(plan.image)
        return [render_entry(entry) for entry in read_history(Path(plan.image.path), plan.image.format) or ()]
    except (ChslurmError, OSError):
        return []


def _take_excerpts(account: Account, job_dir: JobDir) -> Iterator[Excerpt]:
    """Yield the ends of those files that may tell why it went wrong."""
    files: list[PurePath] = []
    for guest in find_blamed(account):
        files += [job_dir.console(guest.id), job_dir.job_errors(guest.id), job_dir.guest_log(guest.id)]
    if not account.good and account.cause in (Cause.LOST, Cause.MACHINERY, None):
        files.append(job_dir.step_log)
    for path in files:
        if excerpt := _take_excerpt(path, str(path.relative_to(job_dir.root))):
            yield excerpt


def _take_excerpt(path: PurePath, name: str) -> Excerpt | None:
    data, cut = _read_end(path, _EXCERPT_BYTES)
    if not cut:  # it may have begun anew a moment ago
        parts = (_read_end(part(path), _EXCERPT_BYTES - len(data))[0] for part in (name_part_before, name_first_part))
        earlier = next(filter(None, parts), b"")
        data, cut = earlier + data, bool(earlier)
    sanitizer = Sanitizer()
    text = sanitizer.feed(data) + sanitizer.finish()
    lines = [line if len(line) <= _LINE_CHARACTERS else f"{line[:_LINE_CHARACTERS]}…" for line in text.splitlines()]
    cut = cut or len(lines) > _EXCERPT_LINES
    return Excerpt(name, "\n".join(lines[-_EXCERPT_LINES:]), cut) if text.strip() else None


def _read_end(path: PurePath, most_bytes: int) -> tuple[bytes, bool]:
    """Return the end of a file, and whether there is more: looking for lines in what has none could take for ever."""
    file = FollowedFile(path)
    left_out = max(0, file.measure_new() - most_bytes)
    file.skip(left_out)
    return file.read(most_bytes)[0], left_out > 0


def _find_cwd() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None
