# SPDX-License-Identifier: Apache-2.0
"""`chslurm image`: images for guests."""

from __future__ import annotations

from pathlib import Path

import click

from chslurm.host.files import find_data
from chslurm.image import DEFAULT_SIZE, DEFAULT_SUITE, build_image, make_build_options


@click.group()
def image() -> None:
    """Build and check images."""


@image.command()
@click.option("--suite", metavar="NAME", default=DEFAULT_SUITE, show_default=True, help="Debian release.")
@click.option("--include", metavar="PKG", multiple=True, help="One more package, or several with commas; repeatable.")
@click.option("--size", metavar="SIZE", default=DEFAULT_SIZE, show_default=True, help="Size of the disk, sparse.")
@click.option("-o", "--output", metavar="FILE", default="image.qcow2", show_default=True, help="The image.")
@click.option("--mirror", metavar="URL", help="Where packages come from. Default: as on this machine.")
@click.option("--force", is_flag=True, help="Replace an image that is there already.")
def build(suite: str, include: tuple[str, ...], size: str, output: str, mirror: str | None, force: bool) -> None:
    """Build an image from a distribution's packages, unattended."""
    recipe = find_data("guest") / "image"
    options = make_build_options(
        recipe, Path(output).absolute(), suite=suite, include=include, size=size, mirror=mirror, force=force
    )
    built = build_image(options, click.echo)
    click.echo(f"{built.path}: {built.size_bytes >> 20} MiB, kernel {built.kernel_version}, {built.seconds:.0f} s")


@image.command()
@click.argument("file", metavar="IMAGE")
@click.option("--boot-timeout", metavar="SECONDS", help="Give up when the guest is not ready after so long.")
def check(file: str, boot_timeout: str | None) -> int:
    """Boot IMAGE once and say whether it keeps the contract with guests.

    Ends with 0 when it does, with 1 when it does not.
    """
    from chslurm.imagecheck import check_image

    return 0 if check_image(file, Path.cwd(), click.echo, boot_timeout=boot_timeout) else 1
