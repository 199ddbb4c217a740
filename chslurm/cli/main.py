# SPDX-License-Identifier: Apache-2.0
"""`chslurm`: the umbrella for everything that is not launching. A subcommand is imported when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from chslurm import __version__
from chslurm.cli.entry import run_command

_COMMANDS = {
    "completion": ("chslurm.cli.completion", "completion", "Print what a shell needs to complete our commands."),
    "config": ("chslurm.cli.config", "config", "Show and check settings, and print samples."),
    "console": ("chslurm.cli.attach", "console", "Show the console of a guest in this terminal."),
    "doctor": ("chslurm.cli.doctor", "doctor", "Say what a launch lacks here, and what to do about it."),
    "exec": ("chslurm.cli.attach", "exec_", "Run a command on guests."),
    "image": ("chslurm.cli.image", "image", "Make, look at, change and check images."),
    "logs": ("chslurm.cli.look", "logs", "Print what guests and jobs have written."),
    "net": ("chslurm.cli.net", "net", "Check the network of guests; make one as root."),
    "paths": ("chslurm.cli.paths", "paths", "Tell where templates, manual pages and settings are."),
    "ps": ("chslurm.cli.look", "ps", "List your clusters that run."),
    "report": ("chslurm.cli.report", "report", "Show what happened in a cluster, as a page or a picture."),
    "ssh": ("chslurm.cli.attach", "ssh", "Log in to a guest, or run a command there."),
    "status": ("chslurm.cli.look", "status", "Tell how a cluster and its guests fare."),
    "stop": ("chslurm.cli.attach", "stop", "Let a cluster end in order."),
    "template": ("chslurm.cli.template", "template", "Batch scripts to start from."),
}
"""Name -> (module that has the command, its name there, help)."""

_FOR_PROGRAMS = {"connect": "chslurm.cli.attach", "relay": "chslurm.cli.attach"}
"""Commands that no user types."""


class _LazyGroup(click.Group):
    """Knows its commands' names and help without importing them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in _FOR_PROGRAMS:
            module, function = _FOR_PROGRAMS[name], name
        elif name in _COMMANDS:
            module, function, _ = _COMMANDS[name]
        else:
            return None
        command: Any = getattr(import_module(module), function)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in sorted(_COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def chslurm() -> None:
    """Virtual clusters as ordinary SLURM jobs: everything besides launching them, which `chrun` does."""


def main() -> None:
    """Entry point."""
    sys.exit(run_command(chslurm, "chslurm"))


if __name__ == "__main__":
    main()
