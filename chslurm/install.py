# SPDX-License-Identifier: Apache-2.0
"""The story of `oneguest --boot ISO IMAGE`: one machine in this terminal that installs into an empty image."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from chslurm.errors import ChslurmError, UsageError
from chslurm.host.accel import choose_accelerator, find_qemu
from chslurm.host.bundle import read_head
from chslurm.host.place import read_user
from chslurm.host.process import describe_exit, run, spawn
from chslurm.host.screen import find_display
from chslurm.host.sitelimits import check_here, check_images
from chslurm.host.target import read_use
from chslurm.host.terminal import ends_in_order, kept_settings
from chslurm.host.workstation import read_allocation
from chslurm.installer import (
    MEDIA_BYTES,
    Installer,
    find_media_fault,
    find_target_format,
    is_empty,
    make_installer_argv,
)
from chslurm.limits import Limits, check_guests, reserve
from chslurm.plan import Accelerator, Mode, NetworkKind
from chslurm.units import quote, render_size


@dataclass(frozen=True, slots=True)
class Installation:
    """What the user asked for."""

    media: Path
    image: Path
    cores: int
    ram_mib: int
    accelerator: Accelerator
    vga: bool
    force: bool
    limits: Limits  # of the site


def install(wish: Installation, say: Callable[[str], None]) -> None:
    """Boot the install media with the image as disk and stay until that machine ends.

    Raises UsageError before anything is started, ChslurmError when QEMU failed.
    """
    read_user()
    _check_machine(wish)
    _check_media(wish.media)
    check_images(wish.limits, [wish.media], "--boot")
    image_format = _check_image(wish.image, force=wish.force)
    check_images(wish.limits, [wish.image])
    accelerator, reason = choose_accelerator(wish.accelerator)
    program = find_qemu()
    display = _choose_display(program) if wish.vga else None
    machine = Installer(
        os.path.realpath(wish.media),
        os.path.realpath(wish.image),
        image_format,
        wish.cores,
        wish.ram_mib,
        accelerator,
        display,
    )
    say(f"installing from {wish.media} into {wish.image} ({image_format}); {accelerator.upper()} ({reason})")
    say("its network reaches what this user reaches, services on this host's loopback too (at 10.0.2.2)")
    say("this terminal is the serial console; Ctrl-a x ends the machine at once, Ctrl-a h lists more")
    with ends_in_order(), _kept_terminal():
        process = spawn(make_installer_argv(machine, program), stdin=None)
        try:
            status = process.wait()
        finally:
            process.kill()
            process.wait()
    if status:
        raise ChslurmError(f"can't install into {wish.image}: QEMU ended: {describe_exit(status)}")
    say(f"the machine has ended; chslurm image check {wish.image} says whether guests can boot from what it left")


def _check_machine(wish: Installation) -> None:
    """Raise UsageError when the site's limits leave no room for this machine, or not the network that it has."""
    check_here(wish.limits, Mode.WORKSTATION)
    if wish.limits.networks is not None and NetworkKind.ROOTLESS not in wish.limits.networks:
        what = "its network is rootless, which the site does not allow"
        raise UsageError(f"can't install from --boot: {what} ({wish.limits.say('networks')})", hint="ask the site")
    node = reserve(read_allocation(), wish.limits).nodes[0]
    check_guests(wish.limits, node, 1, wish.cores)
    if wish.limits.reserved_ram_mib and wish.ram_mib > node.memory_mib:
        left, place = render_size(node.memory_mib), wish.limits.say("reserved_ram")
        raise UsageError(
            f"can't give this machine {render_size(wish.ram_mib)} RAM: the site leaves {left} ({place})",
            hint="ask for less RAM (--ram)",
        )


def _check_media(path: Path) -> None:
    name = f"--boot {quote(str(path))}"
    if fault := find_media_fault(_read_start(path, name, MEDIA_BYTES)):
        raise UsageError(f"{name}: {fault}", hint="give the ISO file of an installation disc for x86-64")


def _check_image(path: Path, *, force: bool) -> str:
    """Return the format. Raises UsageError unless the image is there, ours to write to, unused and empty."""
    name = f"image {quote(str(path))}"
    if not os.path.lexists(path):
        raise UsageError(f"{name}: No such file or directory", hint=f"chslurm image create {path} makes an empty one")
    try:
        image_format = find_target_format(_read_start(path, name, 512))
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from error
    if not os.access(path, os.W_OK):
        raise UsageError(f"{name}: not writable", hint="chmod u+w it, or take a copy")
    use = read_use(path)
    if use.read or use.written:
        raise UsageError(f"{name}: guests or other programs use it", hint="wait until they have ended")
    listed = run(["qemu-img", "map", "--output=json", "-f", image_format, path.absolute()], check=False)
    if listed.status:
        last = (listed.stderr.strip().splitlines() or ["qemu-img failed"])[-1]
        raise UsageError(f"{name}: not usable: {last.removeprefix('qemu-img: ')}")
    if not force and not is_empty(listed.stdout, bytes(read_head(path, image_format))):
        raise UsageError(f"{name}: it is not empty", hint="--force lets the installer have it all the same")
    return image_format


def _read_start(path: Path, name: str, length: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{name}: not a regular file", hint="give a file")
        with path.open("rb") as file:
            return file.read(length)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error


def _choose_display(program: str) -> str:
    """Return the kind of window to open. Raises UsageError when there can be none."""
    try:
        return find_display(program, Mode.WORKSTATION, os.environ)
    except ChslurmError as error:
        raise UsageError(error.message, hint=error.hint) from error


def _kept_terminal() -> AbstractContextManager[None]:
    """Put the terminal back to what it was: a QEMU that is killed can't."""
    here = sys.stdin is not None and sys.stdin.isatty()
    return kept_settings(sys.stdin.fileno()) if here else nullcontext()
