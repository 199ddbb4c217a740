# SPDX-License-Identifier: Apache-2.0
"""STORIES of a user who comes to a running cluster: its consoles, ssh, commands on its guests, its end."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from chslurm.errors import ChslurmError
from chslurm.guestlist import check_guests
from chslurm.host import terminal
from chslurm.host.attachclient import Channel, join_standard_streams, open_channel
from chslurm.host.clusters import read_cluster
from chslurm.host.fanout import run_together
from chslurm.host.process import replace_process
from chslurm.jobdir import JobDir
from chslurm.messages import AttachKind, AttachRequest
from chslurm.meta import make_guest_name
from chslurm.plan import Plan

SSH_PORT = 22

_STOPPED_S = 600.0
_LOOK_S = 0.2


def show_console(plan: Plan, guest: int, say: Callable[[str], None]) -> None:
    """Show the console of a guest in this terminal until the guest ends or the user leaves. Raises ChslurmError."""
    with _open_host(plan, guest, AttachRequest(AttachKind.CONSOLE, guest=guest)) as channel:
        left = terminal.show_console(channel)
    name = make_guest_name(guest)
    say(f"left the console of {name}; it goes on" if left else f"{name} has ended")


def carry_connection(plan: Plan, guest: int, port: int = SSH_PORT) -> None:
    """Join standard input and output to a port of a guest: ssh's ProxyCommand. Raises ChslurmError."""
    with _open_host(plan, guest, AttachRequest(AttachKind.CONNECT, guest=guest, port=port)) as channel:
        join_standard_streams(channel)


def ask_to_stop(plan: Plan) -> None:
    """Let the cluster end in order and wait for its head, which may have an image to commit. Raises ChslurmError."""
    with open_channel(plan, plan.host(1), AttachRequest(AttachKind.STOP)) as channel:
        while os.read(channel.read_fd, 4096):
            pass
    until_s = time.monotonic() + _STOPPED_S
    while (found := read_cluster(Path(plan.job_dir))).running and found.plan.cluster_id == plan.cluster_id:
        if time.monotonic() > until_s:
            hint = "chslurm status tells how far it is"
            raise ChslurmError(f"{found.name}: still ending after {_STOPPED_S:g} s", hint=hint)
        time.sleep(_LOOK_S)


def enter_guest(plan: Plan, guest: int, command: Sequence[str] = ()) -> NoReturn:
    """Become an ssh to a guest, with a login shell or a command there. Raises ChslurmError when there is no ssh."""
    check_guests(plan, guest)
    replace_process(make_ssh_argv(plan, guest, command))


def run_on_guests(plan: Plan, guests: Iterable[int], command: Sequence[str]) -> int:
    """Run a command on several guests at the same time, every line labelled with its guest.

    Returns the largest exit status: that of the command, or 255 where ssh failed.
    """
    numbers = tuple(guests)
    check_guests(plan, *numbers)
    argvs = {make_guest_name(number): make_ssh_argv(plan, number, command) for number in numbers}
    return run_together(argvs)


def make_ssh_argv(plan: Plan, guest: int, command: Sequence[str]) -> list[str]:
    """Return the ssh that runs `command`, word for word, on a guest; a login shell without one."""
    config = JobDir(Path(plan.job_dir)).ssh_config
    if not Path(config).exists():
        raise ChslurmError(f"can't reach guests: {config}: it is not there", hint="has the cluster ended?")
    words = ["--", shlex.join(command)] if command else []
    return ["ssh", "-F", str(config), make_guest_name(guest), *words]


def _open_host(plan: Plan, guest: int, request: AttachRequest) -> AbstractContextManager[Channel]:
    """Ask the host of a guest. Raises UsageError when there is no such guest, ChslurmError."""
    check_guests(plan, guest)
    return open_channel(plan, plan.host(plan.guests[guest].host), request)
