# SPDX-License-Identifier: Apache-2.0
"""Tables: fit to a terminal, or plain columns for everything else."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from chslurm.messages import printable

_CELL_MAX = 4096


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headings."""
    cells = [[printable(cell, _CELL_MAX) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in headings:
            table.add_column(heading, overflow="fold")  # nothing is left out on a narrow terminal
        for row in cells:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    for line in render_columns([headings, *cells]):
        click.echo(line)


def render_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines of aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
