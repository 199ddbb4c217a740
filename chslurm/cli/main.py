# SPDX-License-Identifier: Apache-2.0
"""`chslurm`: the umbrella for everything that is not launching. A subcommand is imported when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from chslurm import __version__
from chslurm.cli.entry import run_command

_COMMANDS = {"image": ("chslurm.cli.image", "Build and check images.")}
"""Name -> (module that has the command under this name, help)."""


class _LazyGroup(click.Group):
    """Knows its commands' names and help without importing them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: Any = getattr(import_module(_COMMANDS[name][0]), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def chslurm() -> None:
    """Virtual clusters as ordinary SLURM jobs: everything besides launching them, which `chrun` does."""


def main() -> None:
    """Entry point."""
    sys.exit(run_command(chslurm, "chslurm"))


if __name__ == "__main__":
    main()
