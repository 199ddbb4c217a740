# SPDX-License-Identifier: Apache-2.0
"""`oneguest`: the guests of one host, as a task of the launcher's step."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from chslurm import __version__
from chslurm.cli.entry import run_command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--plan", metavar="FILE", required=True, help="run/plan.json of the job directory.")
@click.option("--cluster-id", metavar="ID", required=True, help="The cluster that the plan has to be of.")
@click.option("--digest", metavar="SHA256", required=True, help="Digest that the plan's file has to have.")
@click.option("--host-number", metavar="N", type=click.IntRange(min=1), help="Default: the task's rank and 1.")
@click.version_option(__version__, message="%(prog)s %(version)s")
def oneguest(plan: str, cluster_id: str, digest: str, host_number: int | None) -> int:
    """Run the guests that a plan gives to this host.

    The launcher starts this on every node. Orders come on standard input, events go to standard output, a JSON object a
    line each. It ends with its guests, also when the launcher falls silent.
    """
    from chslurm.node import run_node

    return run_node(Path(plan), cluster_id=cluster_id, digest=digest, host_number=host_number)


def main() -> None:
    """Entry point. What it makes on a node, disks and logs, is nobody else's business."""
    os.umask(0o077)
    sys.exit(run_command(oneguest, "oneguest"))


if __name__ == "__main__":
    main()
