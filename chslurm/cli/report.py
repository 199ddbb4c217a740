# SPDX-License-Identifier: Apache-2.0
"""`chslurm report`: what happened in a cluster, as a page, a picture, or JSON."""

from __future__ import annotations

import sys

import click

from chslurm.cli.options import DIR, FILE, choose_cluster, cluster_option, make_path
from chslurm.errors import ChslurmError, UsageError


@click.command()
@click.argument("job_dir", metavar="[JOBDIR]", type=DIR, required=False)
@cluster_option
@click.option("--html", metavar="FILE", type=FILE, help="Write the page there; - is standard output.")
@click.option("--png", metavar="FILE", type=FILE, help="Write the timeline as a picture.")
@click.option("--json", metavar="FILE", type=FILE, help="Write all that is known, for programs.")
def report(job_dir: str | None, cluster: str | None, html: str | None, png: str | None, json: str | None) -> None:
    """Show what happened in a cluster: a timeline of each guest, sizes, versions, and why it failed.

    Each launcher leaves it in its job directory three times: report.html, report.json and report.png. Without options
    this makes them anew, also of a cluster that still runs, so far, or whose launcher was killed. JOBDIR names
    a cluster as -c does.
    """
    from chslurm.account import account_to_json
    from chslurm.retell import read_account, render_picture, render_report, write_reports

    if job_dir is not None and cluster is not None:
        raise UsageError("JOBDIR and --cluster: both name a cluster", hint="leave out one of them")
    found = choose_cluster(job_dir or cluster, allow_ended=True)
    account = read_account(found.plan, running=found.running)
    if found.running and not choose_cluster(str(found.job_dir.root), allow_ended=True).running:
        account = read_account(found.plan, running=False)  # it has ended meanwhile, and its own page tells all
    if html is not None:
        _write(html, render_report(account))
    if json is not None:
        _write(json, account_to_json(account))
    if png is not None:
        _write(png, render_picture(account))
    if (html, png, json) == (None, None, None):
        written = write_reports(account, found.job_dir, None)
        if written.made:
            click.echo(f"report: {written.where}")
        if written.failures:
            hint = "" if found.job_dir.page in written.made else "choose a place with --html"
            error = ChslurmError(written.failures[0], hint=hint)
            error.causes = written.failures[1:]
            raise error


def _write(name: str, data: bytes) -> None:
    """Write what the user wants where he wants it, and say so."""
    if name == "-":
        sys.stdout.buffer.write(data)
        return
    path = make_path(name)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ChslurmError(f"can't write {path}: {error.strerror}") from error
    click.echo(f"report: {path}", err=True)
