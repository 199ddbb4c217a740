# SPDX-License-Identifier: Apache-2.0
"""`chslurm config`: settings shown with where they come from, checked, and explained by a sample."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from chslurm.cli.options import FILE, make_path

if TYPE_CHECKING:
    from chslurm.configured import Settings
    from chslurm.host.configfiles import ConfigFile


@click.group()
def config() -> None:
    """Show and check settings, and print samples.

    What holds is said by the site's file, the user's file, variables, and options of a command, in this order; the
    later wins, but nobody goes beyond the site's limits.
    """


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(as_json: bool) -> None:
    """Tell every setting and limit, and who has said so: what holds when a command line says nothing."""
    from chslurm.host.configfiles import find_config_files, read_settings

    files, settings = find_config_files(os.environ), read_settings(os.environ)
    if as_json:
        _print_json(files, settings)
    else:
        _print_tables(files, settings)


@config.command()
@click.option("--site", is_flag=True, help="That of the site, with its limits. Default: a user's own.")
def sample(site: bool) -> None:
    """Print a settings file in which everything is explained and nothing is set."""
    from chslurm.siteconfig import render_sample

    click.echo(render_sample(site=site), nl=False)


@config.command()
@click.argument("file", metavar="[FILE]", type=FILE, required=False)
@click.option("--site", is_flag=True, help="FILE is to be the site's, and can have limits.")
def check(file: str | None, site: bool) -> None:
    """Check FILE, before it is used; without FILE all that is in use here, variables, too.

    Ends with 0 when all is well, with 64 when something is wrong, and says what in one line.
    """
    from chslurm.configured import Origin
    from chslurm.host.configfiles import ConfigFile, find_config_files, read_config, read_settings

    if file is None:
        settings = read_settings(os.environ)
        files = ", ".join(str(each.path) for each in find_config_files(os.environ) if each.exists)
        click.echo(f"good: {files}, and variables" if files else "good: variables; there is no settings file")
        _print_warnings(settings)
        return
    origin = Origin.SITE if site else Origin.USER
    read_config(ConfigFile(origin, make_path(file).absolute(), exists=True), os.environ)
    click.echo(f"good: {file}")


def _print_tables(files: tuple[ConfigFile, ...], settings: Settings) -> None:
    from chslurm.cli.tables import print_table
    from chslurm.configured import render_limits, render_value
    from chslurm.siteconfig import SETTINGS

    rows = [
        (setting.name, render_value(setting, value.text), value.place or value.origin)
        for setting in SETTINGS
        for value in (settings.values[setting.name],)
    ]
    print_table(("SETTING", "VALUE", "FROM"), rows)
    click.echo()
    if limits := render_limits(settings.limits):
        print_table(("LIMIT", "VALUE", "FROM"), [(*limit, settings.limits.file) for limit in limits.items()])
    else:
        click.echo("no limits")
    click.echo()
    for file in files:
        click.echo(f"{file.origin}: {file.path}{'' if file.exists else ' (there is none)'}")
    _print_warnings(settings)


def _print_warnings(settings: Settings) -> None:
    for warning in settings.warnings:
        click.echo(f"warning: {warning}")


def _print_json(files: tuple[ConfigFile, ...], settings: Settings) -> None:
    import msgspec

    from chslurm.configured import list_limits
    from chslurm.siteconfig import SETTINGS

    limits = list_limits(settings.limits)
    told = {
        "settings": {
            setting.name: {
                "value": value.text,
                "origin": value.origin,
                "place": value.place,
                "option": setting.option,
                "variable": setting.variable,
                "limited_by": setting.limited_by,
            }
            for setting in SETTINGS
            for value in (settings.values[setting.name],)
        },
        "limits": {name: {"value": value, "place": settings.limits.file} for name, value in limits.items()},
        "files": {file.origin: {"path": str(file.path), "exists": file.exists} for file in files},
        "warnings": settings.warnings,
    }
    click.echo(msgspec.json.format(msgspec.json.encode(told), indent=1).decode())
