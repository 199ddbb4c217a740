# SPDX-License-Identifier: Apache-2.0
"""`chslurm paths`: where this installation has what is not a command."""

from __future__ import annotations

import json

import click

from chslurm.cli.tables import render_columns
from chslurm.errors import UsageError

_EPILOG = """\b
For example, to have a batch template of one's own:
  cp "$(chslurm paths batch-templates)/chjob.sh" .
"""


@click.command(epilog=_EPILOG)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object; null is what this installation has not.")
def paths(name: str | None, as_json: bool) -> None:
    """Tell where programs, boot scripts, batch templates, examples, manual pages, module files and settings are.

    With NAME it is that path alone. Settings files are named whether they are there or not; the site's is the one
    that counts for you now.
    """
    from chslurm.host.installation import find_installation

    found = find_installation(name)
    if name is not None:
        if name not in found:
            raise UsageError(f"NAME {name!r}: unknown; use one of {', '.join(found)}")
        if found[name] is None:
            raise UsageError(f"NAME {name!r}: this installation has none")
        found = {name: found[name]}
    if as_json:
        click.echo(json.dumps({name: path and str(path) for name, path in found.items()}, indent=2))
    elif name is not None:
        click.echo(found[name])
    else:
        for line in render_columns([(key, "none" if path is None else str(path)) for key, path in found.items()]):
            click.echo(line)
