# SPDX-License-Identifier: Apache-2.0
"""`chrun`, also called `vcluster`: the launcher. Names and help of its options; what they mean is in `request.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Unpack

import click

from chslurm import __version__
from chslurm.cli.entry import run_command
from chslurm.cli.options import DIR, FILE, IMAGE, AfterDashes, Word, find_current_directory
from chslurm.errors import ChslurmError
from chslurm.kinds import Accelerator, NetworkKind, TunnelKind

if TYPE_CHECKING:
    from chslurm.request import RawOptions, Request

_EPILOG = """\b
Exit status: that of the job (guest 0's; if that is 0, the largest of the others), or
   64  bad options or input; nothing was started
   70  the machinery failed, or a guest was lost
  124  time limit
  130  interrupted
  143  cancelled
A job may end with the same numbers: run/summary.json in the job directory names the cause.
"""


@click.command(
    cls=AfterDashes, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.argument("image", metavar="[IMAGE]", type=IMAGE, required=False)
@click.argument("arguments", metavar="[-- ARGUMENTS...]", nargs=-1)
@click.option("-n", "guests", metavar="N", help="Guests in all. Default: one for each node; 2 on a workstation.")
@click.option("--job", type=FILE, help="Script that every guest runs, as /ch/meta/jobscript.")
@click.option(
    "-i", "--interactive", is_flag=True, help="Boot and run nothing; ends with guest 0. Default without --job."
)
@click.option("-d", "--dir", type=DIR, multiple=True, help="Show DIR to guests as /ch/data1, the next as /ch/data2...")
@click.option(
    "--jobdir",
    metavar="NAME",
    type=DIR,
    help="Job directory; one that this tool made is used again. Default: a new one.",
)
@click.option("--jobbase", type=DIR, help="Where job directories are made. Default: the current directory.")
@click.option("--jobname", metavar="NAME", help="New job directories are NAME.YYYYMMDD_HHMMSS. Default: charlie.")
@click.option("--curses", is_flag=True, help="Show the console of guest 0 in this terminal; Ctrl-] q leaves it.")
@click.option("--xterm", is_flag=True, help="Show the console of each guest in an xterm.")
@click.option("--vga", is_flag=True, help="Give guests a screen, too, in a window on their host.")
@click.option("--commit", metavar="ID", help="Write what guest ID has changed on its disk into IMAGE in the end.")
@click.option("--cores", metavar="N", help="Cores of each guest, on a workstation. Default: 2.")
@click.option("--ram", metavar="SIZE", help="RAM of each guest, on a workstation: 512M, 4G... Default: 2G.")
@click.option("--my-size", is_flag=True, help="Use --cores and --ram in a SLURM job, too, to take less than it gives.")
@click.option("--tmp-size", metavar="SIZE", help="Size of /ch/tmp and swap, sparse. Default: 4G.")
@click.option("--tmp-dir", type=DIR, help="Where the disk of /ch/tmp lies on each node.")
@click.option(
    "--log-size",
    metavar="SIZE",
    help="The most that a guest's console takes in the job directory, and what QEMU says as much again. Default: 64M.",
)
@click.option("--time-limit", metavar="TIME", help="End the cluster after MINUTES, H:MM:SS or D-HH:MM:SS.")
@click.option("--boot-timeout", metavar="SECONDS", help="Give up when a guest is not ready after so long.")
@click.option(
    "--accel", metavar="WHAT", type=Word(Accelerator), help="auto, kvm or tcg (emulation). Default: KVM where it works."
)
@click.option(
    "--tunnel",
    metavar="WHAT",
    type=Word(TunnelKind),
    help="auto, wireguard or vxlan: what joins the hosts of a job. Default: WireGuard where all can.",
)
@click.option(
    "--network",
    metavar="WHAT",
    type=Word(NetworkKind),
    help="auto, site (made by root) or rootless. Default: that of root where there is one with room.",
)
@click.option(
    "--nosync", is_flag=True, help="Start the job on each guest at once, without waiting for the others to boot."
)
@click.option("--cleanup", is_flag=True, help="Delete the guests' overlay disks in the end, too.")
@click.option("--no-report", is_flag=True, help="Leave no report in the job directory.")
@click.option("--dry-run", is_flag=True, help="Print the plan as JSON and end.")
@click.option("--explain", is_flag=True, help="Print every command and network step of the plan and end.")
@click.version_option(__version__, message="%(prog)s %(version)s")
def chrun(**options: Unpack[RawOptions]) -> int:
    """Boot a virtual cluster of IMAGE, run a job on it, and shut it down.

    Inside a SLURM job its guests run on the job's nodes and share out its cores and memory; otherwise they all run on
    this machine. The same command works in both. What is not given here is as settings say: see chslurm config show.
    """
    from chslurm.host.configfiles import settle_request

    return launch(settle_request(options, find_current_directory(), os.environ), os.environ)


def launch(request: Request, environment: Mapping[str, str]) -> int:
    """Do what was asked for, and return the exit status; `environment` tells of the SLURM job."""
    if request.dry_run or request.explain:
        return _print_plan(request, environment)

    from chslurm.aftermath import explain_error
    from chslurm.cli.progress import start_progress
    from chslurm.cluster import run_cluster

    try:
        with start_progress() as progress:
            return run_cluster(request, progress, environment)
    except ChslurmError as error:
        explain_error(error, request, environment)
        raise


def _print_plan(request: Request, environment: Mapping[str, str]) -> int:
    from chslurm.host.place import prepare_plan

    plan = prepare_plan(request, environment)
    if request.dry_run:
        from chslurm.plan import plan_to_json

        click.echo(plan_to_json(plan), nl=False)
    else:
        from chslurm.explain import render_explanation

        click.echo(render_explanation(plan))
    return 0


def main() -> None:
    """Entry point. What guests may see is given its mode where it is made; all else is nobody else's business."""
    os.umask(0o077)
    sys.exit(run_command(chrun, PurePath(sys.argv[0]).name))
