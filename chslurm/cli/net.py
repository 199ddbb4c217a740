# SPDX-License-Identifier: Apache-2.0
"""`chslurm net`: networks for guests that root makes; and the check of any."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from chslurm.cli.options import DIR, FILE, IMAGE, Word, find_current_directory, make_path
from chslurm.kinds import NetworkKind, TunnelKind
from chslurm.site import CONFIG_FILE, render_site
from chslurm.slurmjob import SETTINGS_FILE

if TYPE_CHECKING:
    from chslurm.controls import Report
    from chslurm.netcheck import CheckOptions


@click.group()
def net() -> None:
    """Check the network of guests, and make one as root."""


@net.command()
@click.argument("verb", type=click.Choice(["start", "stop", "restart", "status"]))
@click.option("--config", type=FILE, default=CONFIG_FILE, show_default=True, help="Settings; see docs/operators.md.")
@click.option("--explain", is_flag=True, help="Print what root would run, and end.")
def workstation(verb: str, config: str, explain: bool) -> int:
    """Make, remove or look at the network of a workstation: a bridge, TAPs for one user, NAT.

    Repeating a verb is safe. status ends with 0 when the network is up, 1 when it is damaged, 3 when it is down; the
    rest with 0, with 64 for bad settings, or with 70 when something failed: then nothing is up.
    """
    from chslurm.host.sitefabric import (
        Condition,
        read_condition,
        read_site,
        restart_network,
        start_network,
        stop_network,
    )

    path = make_path(config).absolute()
    if explain:
        click.echo(render_site(read_site(path), verb), nl=False)
    elif verb == "status":
        return {Condition.UP: 0, Condition.BROKEN: 1, Condition.DOWN: 3}[read_condition(click.echo)]
    elif verb == "stop":  # whatever the settings are by now
        stop_network(click.echo)
    else:
        act = start_network if verb == "start" else restart_network
        act(read_site(path), click.echo)
    return 0


@net.command()
@click.argument("image", metavar="[IMAGE]", required=False, type=IMAGE)
@click.option("--taps", is_flag=True, help="Of a job's network that root has made, this node's TAPs: nothing boots.")
@click.option("--short", is_flag=True, help="Fewer frames, and no second pass without filters.")
@click.option("--json", "as_json", is_flag=True, help="Print the table for programs.")
@click.option("-n", "guests", metavar="N", help="Guests. Default: two on each host.")
@click.option("--jobdir", type=DIR, help="Job directory. Default: netcheck with the date.")
@click.option(
    "--network",
    metavar="WHAT",
    type=Word(NetworkKind),
    default="auto",
    help="auto, site or rootless, as of chrun. In a job auto is rootless.",
)
@click.option(
    "--tunnel", metavar="WHAT", type=Word(TunnelKind), default="auto", help="auto, wireguard or vxlan, as of chrun."
)
@click.option("--second-user", metavar="NAME", help="By sudo, for what another user of a node could do.")
@click.option("--control-for", type=FILE, help="This is the control of that check, in a network without filters.")
@click.option("--boot-timeout", metavar="SECONDS", help="Give up when a guest is not ready after so long.")
@click.option("--without", metavar="LIST", hidden=True, help="Families of filters that are missing when it counts.")
def check(
    image: str | None,
    taps: bool,
    short: bool,
    as_json: bool,
    guests: str | None,
    jobdir: str | None,
    network: str,
    tunnel: str,
    second_user: str | None,
    control_for: str | None,
    boot_timeout: str | None,
    without: str | None,
) -> int:
    """Boot a small cluster of IMAGE, attack its network from inside, and say what arrived.

    Here, or in a SLURM job on its nodes, as an ordinary user. Every attack is tried with all filters, with those of
    each family missing, and without any: then it has to arrive, or the check is worth nothing. Filters of root's can't
    be taken away; there a second check, in a network that root has made without any, is the control of the first.

    With --taps no guest boots: frames are sent at the TAPs of this node that belong to the job SLURM_JOB_ID.

    Ends with 0 when all is well, with 1 when a row has failed or its control has, with 70 when it could not be done.
    """
    from chslurm.cli.tables import render_columns
    from chslurm.controls import report_to_json
    from chslurm.errors import UsageError
    from chslurm.verdicts import HEADINGS, render_lines, render_verdict

    if taps == bool(image):
        hint = "give either"
        raise UsageError("an image, or --taps?", hint=hint)
    if image:
        from chslurm.netcheck import CheckOptions, parse_families

        families = parse_families(without or "")
        report = _check_by_guests(
            CheckOptions(
                image, short, guests, jobdir, boot_timeout, network, tunnel, second_user, control_for, families
            )
        )
    else:
        from chslurm.tapcheck import check_taps

        if any((guests, jobdir, second_user, boot_timeout, without)) or (network, tunnel) != ("auto", "auto"):
            raise UsageError("--taps boots nothing", hint="only --short, --json and --control-for go with it")
        report = check_taps(os.environ, short=short, control_for=control_for)
    if as_json:
        click.echo(report_to_json(report).decode(), nl=False)
    else:
        click.echo("\n".join([*render_columns([HEADINGS, *render_lines(report.rows)]), render_verdict(report.rows)]))
    return 0 if report.good else 1


def _check_by_guests(options: CheckOptions) -> Report:
    import sys

    from chslurm.cli.progress import start_progress
    from chslurm.netcheck import check_network

    before = os.umask(0o077)  # as of a cluster
    try:
        with start_progress(sys.stderr) as progress:
            return check_network(options, find_current_directory(), progress, os.environ)
    finally:
        os.umask(before)


_OF_JOBS = click.option("--config", type=FILE, default=SETTINGS_FILE, show_default=True, help="Settings.")
_EXPLAIN = click.option("--explain", is_flag=True, help="Print what root would run for the job, and end.")


@net.command()
@_OF_JOBS
@_EXPLAIN
def prolog(config: str, explain: bool) -> int:
    """Make the network of the SLURM job that the environment tells of; for SLURM's Prolog.

    What is read: SLURM_JOB_ID, SLURM_JOB_UID, SLURM_JOB_PARTITION, SLURM_JOB_CONSTRAINTS, SLURM_JOB_NODELIST (or
    SLURM_NODELIST) and SLURMD_NODENAME. Ends with 0 also when the job is to have none; else the job is not to start.
    """
    return _serve_job("prolog", config, explain=explain)


@net.command()
@_OF_JOBS
@_EXPLAIN
def epilog(config: str, explain: bool) -> int:
    """Remove the network of the SLURM job SLURM_JOB_ID; for SLURM's Epilog."""
    return _serve_job("epilog", config, explain=explain)


def _serve_job(verb: str, config: str, *, explain: bool) -> int:
    from chslurm.cli.prolog import run
    from chslurm.prolog import explain_prolog

    path = make_path(config).absolute()
    if not explain:
        return run(verb, path)
    click.echo(explain_prolog(os.environ, path, epilog=verb == "epilog"), nl=False)
    return 0
