# SPDX-License-Identifier: Apache-2.0
"""`chslurm image`: images for guests."""

from __future__ import annotations

import click

from chslurm.cli.options import IMAGE, find_current_directory, make_path
from chslurm.host.files import find_data
from chslurm.image import DEFAULT_SIZE, DEFAULT_SUITE, build_image, create_image, make_build_options


@click.group()
def image() -> None:
    """Make, look at, change and check images."""


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
        recipe, make_path(output).absolute(), suite=suite, include=include, size=size, mirror=mirror, force=force
    )
    built = build_image(options, click.echo)
    click.echo(f"{built.path}: {built.size_bytes >> 20} MiB, kernel {built.kernel_version}, {built.seconds:.0f} s")


@image.command()
@click.argument("file", metavar="IMAGE", type=IMAGE)
@click.option("--boot-timeout", metavar="SECONDS", help="Give up when the guest is not ready after so long.")
def check(file: str, boot_timeout: str | None) -> int:
    """Boot IMAGE once and say whether it keeps the contract with guests.

    Ends with 0 when it does, with 1 when it does not.
    """
    from chslurm.imagecheck import check_image

    return 0 if check_image(file, find_current_directory(), click.echo, boot_timeout=boot_timeout) else 1


@image.command()
@click.argument("file", metavar="IMAGE", type=IMAGE)
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def info(file: str, as_json: bool) -> None:
    """Say what IMAGE is: size, layers, kernel, identity, who uses it now, and its history."""
    from chslurm.imageinfo import look_at_image, look_to_json, render_look

    look = look_at_image(make_path(file))
    click.echo(look_to_json(look).decode().rstrip("\n") if as_json else "\n".join(render_look(look)))


@image.command()
@click.argument("file", metavar="IMAGE", type=IMAGE)
def history(file: str) -> None:
    """Say who made IMAGE of what, and who committed to it, the oldest first."""
    from chslurm.imageinfo import read_image_history, render_history

    click.echo("\n".join(render_history(read_image_history(make_path(file)))))


@image.command()
@click.argument("file", metavar="FILE")
@click.option("--size", metavar="SIZE", default=DEFAULT_SIZE, show_default=True, help="Size of the disk, sparse.")
@click.option("--format", "image_format", metavar="NAME", default="qcow2", show_default=True, help="qcow2 or raw.")
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
def create(file: str, size: str, image_format: str, force: bool) -> None:
    """Make an empty image, to be installed into with oneguest --boot."""
    click.echo(create_image(make_path(file), size=size, image_format=image_format, force=force))


@image.command()
@click.argument("job_dir", metavar="JOBDIR")
@click.argument("guest", metavar="[ID]", required=False)
@click.option("--force", is_flag=True, help="Commit a guest that did not shut itself down, too.")
def commit(job_dir: str, guest: str | None, force: bool) -> None:
    """Write what guest ID of a past cluster has changed into its image, as --commit does at the end.

    JOBDIR is the job directory, with the overlay in run/. Without ID it is the guest of --commit, or the only one.
    """
    from chslurm.imagecommit import commit_by_hand
    from chslurm.units import parse_count

    wanted = None if guest is None else parse_count(guest, "ID", least=0)
    commit_by_hand(make_path(job_dir).resolve(), wanted, click.echo, force=force)
