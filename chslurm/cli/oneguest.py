# SPDX-License-Identifier: Apache-2.0
"""`oneguest`: one guest by hand; an installation from install media; the guests of one host in the launcher's step."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from chslurm import __version__
from chslurm.cli.chrun import chrun, launch
from chslurm.cli.entry import run_command
from chslurm.cli.options import IMAGE, AfterDashes, find_current_directory
from chslurm.errors import UsageError

_OF_STEP = ("plan", "cluster_id", "digest", "taps")

_NOT_FOR_ONE = ("image", "guests", "xterm", "my_size", "nosync", "tunnel", "version", "help")
"""Parameters of the launcher that make no sense for a single guest, or are declared anew here."""

_IMAGE = click.Argument(["image"], metavar="[IMAGE]", required=False, type=IMAGE)
"""Before the arguments of the job script, which take all that is left."""

_EPILOG = """\b
An installation from install media:
  chslurm image create image.qcow2
  oneguest --boot debian-12-netinst.iso image.qcow2
Its serial console is this terminal. Ctrl-a x ends the machine, Ctrl-a c leads to QEMU's own console and back.
The exit status is that of chrun, see there.
"""


@click.command(
    cls=AfterDashes,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[_IMAGE, *(parameter for parameter in chrun.params if parameter.name not in _NOT_FOR_ONE)],
)
@click.option("--boot", metavar="ISO", help="Install from this file into IMAGE, which is to be empty.")
@click.option("--force", is_flag=True, help="With --boot: install into an IMAGE that is not empty.")
@click.option("--plan", metavar="FILE", hidden=True, help="run/plan.json of the job directory.")
@click.option("--cluster-id", metavar="ID", hidden=True, help="The cluster that the plan has to be of.")
@click.option("--digest", metavar="SHA256", hidden=True, help="Digest that the plan's file has to have.")
@click.option("--host-number", metavar="N", type=click.IntRange(min=1), hidden=True, help="Default: from the rank.")
@click.option("--taps", metavar="LIST", default="", hidden=True, help="Descriptors of TAPs, of all guests in order.")
@click.version_option(__version__, message="%(prog)s %(version)s")
def oneguest(image: str | None, boot: str | None, force: bool, host_number: int | None, **options: Any) -> int:
    """Boot one guest of IMAGE on this machine, as `vcluster -n1` does on a workstation.

    With --boot ISO install an operating system into IMAGE instead. (The launcher starts oneguest on every node, too,
    with options of its own.)
    """
    plan, cluster_id, digest, taps = (options.pop(name) for name in _OF_STEP)
    if plan is not None:
        if cluster_id is None or digest is None or image is not None:
            raise UsageError("--plan is for the launcher", hint="give an IMAGE")
        from chslurm.node import run_node

        fds = [int(fd) for fd in taps.split(",") if fd.isdecimal()]
        return run_node(Path(plan), cluster_id=cluster_id, digest=digest, host_number=host_number, taps=fds)
    if boot is not None:
        if image is None:
            raise click.UsageError("Missing argument 'IMAGE'.")
        return _install(boot, image, force=force, options=options)
    if force:
        raise UsageError("--force belongs to --boot")
    return _run_guest({**options, "image": image})


def _run_guest(given: dict[str, Any]) -> int:
    """A workstation cluster of one, also inside a SLURM job: that is then only where this machine is."""
    from chslurm.host.configfiles import settle_request
    from chslurm.request import NOTHING_ASKED

    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    options: Any = {**NOTHING_ASKED, **given, "guests": "1"}
    return launch(settle_request(options, find_current_directory(), environment), environment)


def _install(boot: str, image: str, *, force: bool, options: dict[str, Any]) -> int:
    from chslurm.host.configfiles import settle_request
    from chslurm.install import Installation, install
    from chslurm.request import NOTHING_ASKED

    asked_for_nothing: Mapping[str, object] = NOTHING_ASKED
    meant = ("cores", "ram", "accel", "vga")
    for name, value in options.items():
        if name not in meant and value not in (None, asked_for_nothing.get(name)):
            raise UsageError(f"--{name.replace('_', '-')} is for guests, not for --boot", hint="leave it out")
    asked: Any = {**NOTHING_ASKED, **options, "image": image, "guests": "1"}
    request = settle_request(asked, find_current_directory(), os.environ, workstation=True)
    wish = Installation(
        media=Path(boot),
        image=Path(image),
        cores=request.cores or 2,
        ram_mib=request.ram_mib or 2048,
        accelerator=request.accelerator,
        vga=request.vga,
        force=force,
        limits=request.limits,
    )
    install(wish, click.echo)
    return 0


def main() -> None:
    """Entry point. What it makes on a node, disks and logs, is nobody else's business."""
    os.umask(0o077)
    sys.exit(run_command(oneguest, "oneguest"))


if __name__ == "__main__":
    main()
