# SPDX-License-Identifier: Apache-2.0
"""The page of commands, written from the commands themselves: what `--help` says, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from chslurm.cli.chrun import chrun
from chslurm.cli.main import chslurm
from chslurm.cli.oneguest import oneguest

_HEAD = """\
# Commands

Each prints what stands here with `--help`, and its version with `--version`. Manual pages say more: `man chrun`,
`man chslurm-exec`, and so on; there are chslurm-config(5), chslurm-jobdir(5) and chslurm-job(7), too. What an exit
status means is told with the [job scripts](jobs.md#the-end). Sizes without a unit are in MiB; M, G and T are powers of
1024.

| variable | effect |
|---|---|
| `CHSLURM_CLUSTER` | the cluster that `chslurm` commands mean without `--cluster` |
| `CHSLURM_DEBUG` | when set, an unexpected error shows where in the program it happened |
| `CHSLURM_IMAGE`, `CHSLURM_RAM`... | what holds where an option is not given: see [settings](settings.md) |
| `CHSLURM_SITE_CONFIG` | the site's settings file, where there is no `/etc/charliecloud/config.toml` |
"""


def make_context(command: click.Command, name: str) -> click.Context:
    """That of a call by users: click keeps the help option of the first call, which may have been another test's."""
    vars(command).update(_help_option=None)
    return click.Context(command, info_name=name, **{"help_option_names": ["-h", "--help"], **command.context_settings})


def render_command_page() -> str:
    """Return the text of docs/commands.md."""
    parts = [_HEAD]
    parts += _render(chrun, "chrun", "chrun, vcluster", 2)
    parts += _render(chslurm, "chslurm", "chslurm", 2)
    parts += _render(oneguest, "oneguest", "oneguest", 2)
    return "\n".join(parts)


def _render(command: click.Command, name: str, title: str, level: int) -> Iterator[str]:
    context = make_context(command, name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield f"{'#' * level} {title}\n"
    yield f"    {usage}\n"
    yield from (f"{paragraph}\n" for paragraph in _paragraphs(command.help or ""))
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    if options:
        yield _render_options(options, context)
    if command.epilog:
        yield "".join(f"    {line}\n" for line in command.epilog.replace("\b\n", "").strip().splitlines())
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            child = command.get_command(context, word)
            if child is not None and not child.hidden:
                yield from _render(child, f"{name} {word}", f"{name} {word}", level + 1)


def _render_options(options: list[click.Option], context: click.Context) -> str:
    rows = "| option | |\n|---|---|\n"
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            rows += f"| `{record[0]}` | {_escape(record[1])} |\n"
    return rows


def _paragraphs(text: str) -> list[str]:
    """Paragraphs as click's help has them: line breaks within one mean nothing."""
    return [_escape(re.sub(r"\s+", " ", paragraph).strip()) for paragraph in text.split("\n\n")]


def _escape(text: str) -> str:
    """Characters that Markdown would take for its own; between backquotes it takes none."""
    pieces = text.split("`")
    return "`".join(re.sub(r"([*_<|\[])", r"\\\1", piece) if i % 2 == 0 else piece for i, piece in enumerate(pieces))
