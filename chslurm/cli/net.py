# SPDX-License-Identifier: Apache-2.0
"""`chslurm net`: networks for guests that root makes."""

from __future__ import annotations

import click

from chslurm.cli.options import FILE, make_path
from chslurm.site import CONFIG_FILE, render_site


@click.group()
def net() -> None:
    """Networks for guests that root makes."""


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
