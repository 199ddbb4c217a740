# SPDX-License-Identifier: Apache-2.0
"""`chslurm console`, `ssh`, `exec`, `stop`: come to a running cluster. `connect` and `relay` are for programs."""

from __future__ import annotations

import click

from chslurm.cli.options import GuestNumber, GuestNumbers, choose_cluster, cluster_option, guest_argument


class _WithCommand(click.Command):
    """Takes a command for guests, as `COMMAND...`: all behind a `--`, or behind the words that are ours."""

    allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours, dashes, theirs = args, [], []
        if "--" in args:
            at = args.index("--")
            ours, dashes, theirs = args[:at], args[at : at + 1], args[at + 1 :]
        rest = super().parse_args(ctx, ours)
        before: tuple[str, ...] = ctx.params["command"]
        ctx.params["command"] = (*before, *(dashes if before else ()), *theirs)
        return rest


@click.command()
@cluster_option
@guest_argument
def console(cluster: str | None, guest: int) -> None:
    """Show the console of GUEST (default 0) in this terminal, from its latest output on.

    All keys go to the guest, Ctrl-C too. Ctrl-] q leaves it as it is; Ctrl-] Ctrl-] types a Ctrl-]. Several may look
    and type at the same time. In a batch cluster there is no login on the console: use `chslurm ssh`.
    """
    from chslurm.attach import show_console

    show_console(choose_cluster(cluster).plan, guest, click.echo)


@click.command(cls=_WithCommand)
@cluster_option
@guest_argument
@click.argument("command", metavar="[--] [COMMAND...]", nargs=-1)
def ssh(cluster: str | None, guest: int, command: tuple[str, ...]) -> None:
    """Log in to GUEST (default 0) as charlie, or run COMMAND there.

    COMMAND is run word for word (for pipes and the like: chslurm ssh 0 -- sh -c '...'). Ends with its status, or 255
    when ssh fails. Everything else that ssh can do: ssh -F JOBDIR/ssh_config chgu0, and scp, sftp and rsync alike.
    """
    from chslurm.attach import enter_guest

    enter_guest(choose_cluster(cluster).plan, guest, command)


@click.command(name="exec", cls=_WithCommand)
@cluster_option
@click.option(
    "-w", "--guests", metavar="LIST", type=GuestNumbers(), default="0", show_default=True, help="Guests, like 0,2-3."
)
@click.option("--all", "everywhere", is_flag=True, help="All guests.")
@click.argument("command", metavar="[--] COMMAND...", nargs=-1)
def exec_(cluster: str | None, guests: tuple[int, ...], everywhere: bool, command: tuple[str, ...]) -> int:
    """Run COMMAND as charlie on guests, word for word, and print what it prints, with its guest before each line.

    Ends with the largest exit status, or 255 where ssh fails. On one guest nothing is labelled and standard input is
    passed on. For pipes and the like: chslurm exec --all -- sh -c '...'
    """
    from chslurm.attach import enter_guest, run_on_guests

    if not command:
        raise click.UsageError("no command: chslurm exec --all -- hostname")
    plan = choose_cluster(cluster).plan
    wanted = tuple(guest.id for guest in plan.guests) if everywhere else guests
    if len(wanted) == 1:
        enter_guest(plan, wanted[0], command)
    return run_on_guests(plan, wanted, command)


@click.command()
@cluster_option
def stop(cluster: str | None) -> None:
    """Let a cluster end in order: guests are shut down, results kept.

    An interactive cluster ends as if guest 0 had been shut down, with 0; a batch one as if it was cancelled, with 143.
    """
    from chslurm.attach import ask_to_stop

    found = choose_cluster(cluster)
    click.echo(f"{found.name}: shutting down its guests")
    ask_to_stop(found.plan)
    click.echo(f"{found.name}: stopped")


@click.command(hidden=True)
@cluster_option
@click.option("--port", type=click.IntRange(1, 65535), default=22)
@click.argument("guest", type=GuestNumber())
def connect(cluster: str | None, port: int, guest: int) -> None:
    """Join standard input and output to a port of GUEST: the ProxyCommand in JOBDIR/ssh_config."""
    from chslurm.attach import carry_connection

    carry_connection(choose_cluster(cluster).plan, guest, port)


@click.command(hidden=True)
@cluster_option
@click.argument("host", type=click.IntRange(min=1))
def relay(cluster: str | None, host: int) -> None:
    """Join standard input and output to the guests' host on this node: what `srun` starts for the others."""
    from chslurm.host.attachclient import relay as join

    join(choose_cluster(cluster).plan, host)
