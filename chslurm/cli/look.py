# SPDX-License-Identifier: Apache-2.0
"""`chslurm ps`, `status` and `logs`: clusters seen from outside."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from chslurm.cli.options import choose_cluster, cluster_option, find_current_directory, guests_option
from chslurm.cli.tables import print_table
from chslurm.errors import ExitCode
from chslurm.messages import printable
from chslurm.units import render_duration

if TYPE_CHECKING:
    from chslurm.look import Listing
    from chslurm.survey import GuestView, Survey


@click.command()
@click.option("-a", "--all", "ended", is_flag=True, help="Also clusters that have ended in the current directory.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def ps(ended: bool, as_json: bool) -> None:
    """List your clusters that run, here and in SLURM.

    A cluster whose job directory is on another node's own disk is only named: its state is "elsewhere".
    """
    from chslurm.look import list_clusters

    listings = list_clusters(find_current_directory() if ended else None)
    if as_json:
        _print_json(listings)
    elif listings:
        headings = ("NAME", "WHERE", "GUESTS", "STATE", "AGE", "LEFT", "JOB DIRECTORY")
        print_table(headings, [_render_row(listing) for listing in listings])
    else:
        click.echo("no cluster of yours runs", err=True)


@click.command()
@cluster_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def status(cluster: str | None, as_json: bool) -> None:
    """Tell how a cluster and each of its guests fare, also when it has ended.

    The exit status is 0 whatever state the cluster is in.
    """
    from chslurm.look import list_cluster, read_cluster_jobs, survey_cluster

    found = choose_cluster(cluster, allow_ended=True)
    survey = survey_cluster(found)
    listing = list_cluster(found, survey, read_cluster_jobs(found))
    if as_json:
        import msgspec

        # of a list only the number of guests is told; here are the guests themselves
        _print_json({**msgspec.to_builtins(listing), **msgspec.to_builtins(survey)})
    else:
        _print_status(listing, survey)


@click.command()
@cluster_option
@guests_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the cluster has ended, or Ctrl-C.")
@click.option(
    "-n", "--lines", metavar="N", type=click.IntRange(min=0), help="Begin with the last N lines of each file."
)
@click.option("--console", is_flag=True, help="What guests say on their consoles.")
@click.option("--job", is_flag=True, help="Standard output of the job.")
@click.option("--err", is_flag=True, help="Standard error of the job.")
@click.option("--host", is_flag=True, help="What hosts, QEMU and network helpers say.")
def logs(cluster: str | None, guests: tuple[int, ...] | None, follow: bool, lines: int | None, **kinds: bool) -> int:
    """Print what guests and jobs have written, also of a cluster that has ended.

    Without --console, --job, --err or --host: output and errors of the job, where there is one, else the consoles.
    Several files are told apart by labels. Guests can't reach your terminal: control characters are left out or made
    visible; the files themselves are in out/ of the job directory.
    """
    from chslurm.look import LogKind, choose_logs, print_logs

    found = choose_cluster(cluster, allow_ended=True)
    chosen = choose_logs(found, tuple(kind for kind in LogKind if kinds[kind]), guests)
    try:
        print_logs(found, chosen, _write, lines=lines, follow=follow)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.OK


def _write(text: str) -> None:
    """Print at once, in whatever encoding the terminal has: in an old one some characters are spelled out."""
    if text:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def _render_row(listing: Listing) -> tuple[str, ...]:
    return (
        listing.name,
        _render_place(listing),
        "?" if listing.guests is None else f"{listing.ready}/{listing.guests}",
        listing.state,
        render_duration(listing.age_s),
        "-" if listing.left_s is None else render_duration(listing.left_s),
        listing.job_dir,
    )


def _render_place(listing: Listing) -> str:
    """The host; or the SLURM job, with its state when that is worth a word."""
    if not listing.slurm_job_id:
        return listing.host
    words = listing.slurm_state if listing.slurm_state not in (None, "RUNNING") else ""
    return f"job {listing.slurm_job_id} {words}".rstrip()


def _print_status(listing: Listing, survey: Survey) -> None:
    state = listing.state + (f" since {_render_time(survey.since_unix_s)}" if survey.since_unix_s else "")
    left = "" if listing.left_s is None else f", {render_duration(listing.left_s)} left"
    facts = {
        "cluster": f"{listing.name} ({listing.cluster_id})",
        "runs on": f"{_render_place(listing)}{left}",
        "state": state,
        "cause": " ".join(filter(None, (str(survey.cause or ""), survey.text and f"({survey.text})"))),
        "exit status": "" if survey.exit_status is None else str(survey.exit_status),
        "took": "" if survey.elapsed_s is None else render_duration(survey.elapsed_s),
        "job directory": listing.job_dir,
    }
    for name, text in facts.items():
        if text:
            click.echo(f"{name + ':':<15}{printable(text, 4096)}")
    click.echo()
    headings = ("ID", "NAME", "NODE", "ADDRESS", "STATE", "STAGE", "STATUS", "SINCE")
    print_table(headings, [_render_guest(guest) for guest in survey.guests])


def _render_guest(guest: GuestView) -> tuple[str, ...]:
    status = "-" if guest.status is None else str(guest.status)
    since = "-" if guest.since_unix_s is None else _render_time(guest.since_unix_s)
    return (str(guest.id), guest.name, guest.node, guest.address, guest.state, guest.stage or "-", status, since)


def _render_time(unix_s: float) -> str:
    return time.strftime("%FT%T", time.localtime(unix_s))


def _print_json(value: object) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=1))
