# SPDX-License-Identifier: Apache-2.0
"""The one place where errors become a line on standard error and an exit status."""

from __future__ import annotations

import os
import sys
import traceback

import click

from chslurm.errors import DEBUG_VARIABLE, ChslurmError, ExitCode


class _NeverError(click.ClickException):
    """Stands for what this click does not know."""


_NoCommandError: type[click.ClickException] = getattr(click.exceptions, "NoArgsIsHelpError", _NeverError)
"""What click raises for a group without a command: its message is the help. Before 8.2 click printed that itself."""


def run_command(command: click.Command, name: str) -> int:
    """Run a command with our arguments and return its exit status; nothing is raised."""
    try:
        return _run(command, name)
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # whoever read our output went away: no reason for Python to end with a status of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(command: click.Command, name: str) -> int:
    try:
        status = command.main(prog_name=name, standalone_mode=False)
        return status if isinstance(status, int) else ExitCode.OK
    except _NoCommandError as error:
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    except click.ClickException as error:
        hint = f"; see {_path_of(error, command, name)} --help" if isinstance(error, click.UsageError) else ""
        return _tell(name, _one_line(error.format_message()).rstrip(".") + hint, ExitCode.USAGE)
    except ChslurmError as error:
        for line in (str(error), *error.causes):
            _tell(name, line, error.exit_code)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _tell(name, "interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return ExitCode.MACHINERY
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        what = _one_line(f"{type(error).__name__}: {error}")
        return _tell(
            name, f"unexpected error, please report it: {what}; {DEBUG_VARIABLE}=1 shows more", ExitCode.MACHINERY
        )


def _path_of(error: click.UsageError, command: click.Command, name: str) -> str:
    """The command whose help tells more. Click does not say whose option it was that has no value."""
    if error.ctx:
        return error.ctx.command_path
    path, context = name, click.Context(command)
    for word in sys.argv[1:]:
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            break
        command, path = found, f"{path} {word}"
    return path


def _tell(name: str, text: str, status: ExitCode) -> ExitCode:
    click.echo(f"{name}: {text}", err=True)
    return status


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
