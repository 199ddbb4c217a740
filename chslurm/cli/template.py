# SPDX-License-Identifier: Apache-2.0
"""`chslurm template`: batch scripts to start from."""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import click

from chslurm.cli.options import DIR, FILE, IMAGE, find_current_directory
from chslurm.errors import ChslurmError, UsageError

if TYPE_CHECKING:
    from chslurm.template import Template

_EPILOG = """\b
Examples:
  chslurm template new chjob --image vm/image.qcow2 --job work.sh --nodes 4 --time 2:00:00
  chslurm template new chmpi --image vm/image.qcow2 --dir project -- ./solver --steps 100
  sbatch chmpi.sh
"""


@click.group()
def template() -> None:
    """Batch scripts to start from."""


@template.command(name="list")
def list_() -> None:
    """Say which templates there are, and what each is for."""
    from chslurm.cli.tables import print_table

    print_table(("NAME", "FOR"), [(found.name, found.title) for found in _read_all().values()])


def _complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in _read_all() if name.startswith(incomplete)]


@template.command()
@click.argument("name", shell_complete=_complete_names)
def show(name: str) -> None:
    """Print the template NAME, which can be submitted as it is."""
    click.echo(_choose(name).text, nl=False)


@template.command(epilog=_EPILOG, short_help="Write a batch script with your values in it.")
@click.argument("name", shell_complete=_complete_names)
@click.argument("arguments", metavar="[-- ARGUMENTS...]", nargs=-1)
@click.option("-o", "--output", type=FILE, help="The file to write. Default: NAME.sh.")
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@click.option(
    "--image",
    metavar="FILE",
    type=IMAGE,
    help="What to boot. Default: what CHSLURM_IMAGE or a settings file says when the job starts.",
)
@click.option("--job", type=FILE, help="Script that every guest runs.")
@click.option("--dir", type=DIR, help="Directory that guests see as /ch/data1.")
@click.option("--nodes", metavar="N", help="How many nodes.")
@click.option("--time", metavar="TIME", help="Time limit: MINUTES, H:MM:SS or D-HH:MM:SS.")
@click.option("--array", metavar="LIST", help="Tasks of the array: 0-9, 1,3,5 or 0-99%4.")
@click.option("--guests", metavar="N", help="How many guests in all.")
@click.option("--cores", metavar="N", help="Cores of each guest.")
@click.option("--ram", metavar="SIZE", help="RAM of each guest: 512M, 4G...")
def new(name: str, arguments: tuple[str, ...], output: str | None, force: bool, **options: str | None) -> None:
    """Write a batch script made from the template NAME, with your values in it.

    Options that are not given keep the values of the template. Not every template has a place for each; ARGUMENTS are
    those of the job script or, with chmpi, the program and its arguments. With work of yours and no --dir guests see
    the folder data where you submit, which is made if need be.
    """
    from chslurm.host.configfiles import read_settings
    from chslurm.host.files import find_data, write_file
    from chslurm.template import Template, fill_template, list_examples

    chosen, settings = _choose(name), read_settings(os.environ)
    path = Path(output or f"{chosen.name}.sh")
    given: dict[str, str | tuple[str, ...]] = {"--": arguments} if arguments else {}
    given |= {f"--{option}": value for option, value in options.items() if value is not None}
    there = find_data("examples")
    examples = there if os.access(there, os.W_OK) else PurePath("examples")  # their jobs write beside their data
    text = fill_template(chosen, given, find_current_directory(), examples, path.name)
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path}: is there already", hint="choose another name with -o, or replace it with --force")
    try:
        write_file(path, text.encode(), 0o755)
    except OSError as error:
        raise ChslurmError(f"can't write {path}: {error.strerror}") from error
    click.echo(f"{path}: written")
    if left := list_examples(text, examples):
        advice = "" if examples == there else f"; have them here: cp -r {shlex.quote(str(there))} ."
        click.echo(f"still from the examples: {', '.join(left)}{advice}")
    starter = Template("", text).starter
    if settings.find("image"):  # of the user's, the site's or the module: no example of one is needed
        starter = starter.rpartition(" ")[2]
    click.echo(f"start it with: {starter} {shlex.quote(str(path))}")


def _read_all() -> dict[str, Template]:
    """Templates by name."""
    from chslurm.host.files import find_data
    from chslurm.template import Template

    paths = sorted(find_data("sbatch-templates").glob("*.sh"))
    return {path.stem: Template(path.stem, path.read_text(encoding="utf-8")) for path in paths}


def _choose(name: str) -> Template:
    from chslurm.units import quote

    templates = _read_all()
    if (found := templates.get(name.removesuffix(".sh"))) is None:
        raise UsageError(f"template {quote(name)}: unknown", hint=f"use one of {', '.join(templates)}")
    return found
