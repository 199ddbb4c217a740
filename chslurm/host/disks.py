# SPDX-License-Identifier: Apache-2.0
"""Disks of guests: the overlay over the image, and the temporary disk with swap and /ch/tmp.

A disk lies in `run/` of the job directory, or, where that is slow or not wanted, in a folder of the node: then its file
has no name from the first moment on and lives as long as a descriptor does, so that a killed node leaves nothing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chslurm.errors import ChslurmError
from chslurm.guest import Disk, make_image_disk
from chslurm.host.process import run
from chslurm.jobdir import JobDir
from chslurm.plan import Guest, Image, Plan

_MIB = 1024 * 1024
_FIRST_MIB = 1  # where partitions start: what every partitioning program aligns to


@dataclass(frozen=True, slots=True)
class GuestDisks:
    """The two disks of one guest."""

    root: Disk
    temporary: Disk


def make_guest_disks(plan: Plan, guest: Guest) -> GuestDisks:
    """Make the disks of one guest where the plan wants them. Raises ChslurmError."""
    place, disks = locate_guest_disks(plan, guest), plan.disks
    return GuestDisks(
        make_overlay(Path(place.root.path), plan.image, disks.overlay_dir),
        make_temporary_disk(Path(place.temporary.path), disks.tmp_dir, disks.swap_mib, disks.tmp_mib),
    )


def locate_guest_disks(plan: Plan, guest: Guest) -> GuestDisks:
    """Return where the disks of one guest lie, or appear to lie; touches nothing."""
    job_dir = JobDir(Path(plan.job_dir))
    root = Disk(str(job_dir.overlay(guest.id)), backing=make_image_disk(plan.image))
    return GuestDisks(root, Disk(str(job_dir.temporary_disk(guest.id))))


def put_away(disks: GuestDisks, *, cleanup: bool, hurry: bool) -> list[str]:
    """Delete the temporary disk; leave the overlay in the job directory, or delete it with `cleanup`.

    An overlay that has to be brought there is dropped in a `hurry`, when SLURM may kill us over it. Returns what was
    done, a line each. Raises ChslurmError when the overlay can't be kept.
    """
    lines = [_delete(disks.temporary)]
    if cleanup or (hurry and disks.root.fd is not None):
        lines.append(_delete(disks.root))
    else:
        _keep(disks.root)
    return lines


def discard(disks: GuestDisks) -> None:
    """Delete both disks."""
    put_away(disks, cleanup=True, hurry=True)


def render_disk_commands(plan: Plan, guest: Guest) -> str:
    """Return the commands that make the disks of one guest, for `--explain`. Scratch files are in memory."""
    place, disks = locate_guest_disks(plan, guest), plan.disks
    commands = [
        _overlay_command(plan.image, place.root.path),
        *_temporary_commands("SCRATCH", "SCRATCH-OF-SWAP", place.temporary.path, disks.swap_mib, disks.tmp_mib),
    ]
    return "".join(f"    {shlex.join(command)}\n" for command in commands)


def _overlay_command(image: Image, target: str) -> list[str]:
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-b", image.path, "-F", image.format, target]


def _temporary_commands(
    raw: str, swap: str, target: str, swap_mib: int, size_mib: int
) -> tuple[list[str], list[str], list[str]]:
    """The commands that fill a temporary disk: swap, ext4, and packing it up."""
    start_mib = _FIRST_MIB + swap_mib
    options = f"offset={start_mib * _MIB},lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
    return (
        ["mkswap", "-q", "-L", "swap", swap],
        ["mkfs.ext4", "-q", "-F", "-L", "tmp", "-m", "0", "-E", options, raw, f"{size_mib - start_mib}M"],
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, target],
    )


def make_overlay(path: Path, image: Image, folder: str | None) -> Disk:
    """Make an empty overlay over the image, at `path`, or without a name in `folder`.

    Raises ChslurmError when the image is not the one that was planned with any more.
    """
    check_unchanged(image)
    fd = None if folder is None else _nameless_file(folder)
    run(_overlay_command(image, str(path) if fd is None else _name(fd)), pass_fds=[] if fd is None else [fd])
    return Disk(str(path), fd=fd, backing=make_image_disk(image))


def check_unchanged(image: Image) -> None:
    """Raise ChslurmError when a layer of the image was changed or replaced since the plan was made."""
    for layer in image.layers:
        try:
            now = os.stat(layer.path)
        except OSError as error:
            hint = "is it visible on this node?"
            raise ChslurmError(f"can't use image: {layer.path}: {error.strerror}", hint=hint) from error
        planned = (layer.size_bytes, layer.mtime_ns, layer.ctime_ns, layer.inode)
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino) != planned:
            hint = "was it changed meanwhile? all nodes have to see one and the same file"
            raise ChslurmError(f"can't use image: {layer.path}: not the file that was planned with", hint=hint)


def make_temporary_disk(path: Path, folder: str | None, swap_mib: int, size_mib: int) -> Disk:
    """Make a temporary disk: first partition swap, second ext4; both made here, so that the guest only mounts them.

    It takes 0.1 s and a few MiB, whatever `size_mib` is: the guest initialises tables and journal when used.
    """
    with _scratch(size_mib * _MIB) as raw, _scratch(swap_mib * _MIB) as swap:
        _write_partition_table(raw, swap_mib, size_mib)
        fd = None if folder is None else _nameless_file(folder)
        target = str(path) if fd is None else _name(fd)
        make_swap, make_ext4, pack = _temporary_commands(_name(raw), _name(swap), target, swap_mib, size_mib)
        run(make_swap, pass_fds=[swap])
        # mkswap knows no offset: its signature, the first page, is made elsewhere and copied.
        os.pwrite(raw, os.pread(swap, 4096, 0), _FIRST_MIB * _MIB)
        run(make_ext4, pass_fds=[raw])
        run(pack, pass_fds=[raw] if fd is None else [raw, fd])
    return Disk(str(path), fd=fd)


def _keep(disk: Disk) -> None:
    """Bring a disk that has no name to its place in the job directory. One that lies there stays as it is."""
    if disk.fd is None:
        return
    aside = Path(f"{disk.path}.new")
    try:
        target = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(f"/proc/self/fd/{disk.fd}", "rb") as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, _MIB)
        aside.rename(disk.path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ChslurmError(f"can't keep {disk.path}: {error.strerror}") from error
    finally:
        os.close(disk.fd)


def _delete(disk: Disk) -> str:
    if disk.fd is not None:
        os.close(disk.fd)  # the last descriptor: QEMU has ended
    path = Path(disk.path)
    path.unlink(missing_ok=True)
    return f"deleted ./{path.relative_to(path.parents[2])}"  # from where the job directory is


def _nameless_file(folder: str) -> int:
    """Return the descriptor of a new file in `folder` that has no name: it is gone when its last descriptor is."""
    fd, name = tempfile.mkstemp(prefix=".chslurm-", dir=folder)
    os.unlink(name)
    return fd


@contextmanager
def _scratch(size_bytes: int) -> Iterator[int]:
    """A sparse file in memory; yields its descriptor."""
    fd = os.memfd_create("chslurm-scratch", os.MFD_CLOEXEC)
    try:
        os.truncate(fd, size_bytes)
        yield fd
    finally:
        os.close(fd)


def _name(fd: int) -> str:
    """The name under which a program that inherits `fd` can open it."""
    return f"/proc/self/fd/{fd}"


def _write_partition_table(fd: int, swap_mib: int, size_mib: int) -> None:
    """Write an MBR with the swap partition (type 82) and the Linux partition (type 83) behind it."""
    sectors_per_mib = _MIB // 512
    parts = ((_FIRST_MIB, swap_mib, 0x82), (_FIRST_MIB + swap_mib, size_mib - swap_mib - _FIRST_MIB, 0x83))
    table = b"".join(
        bytes([0, 0xFE, 0xFF, 0xFF, kind, 0xFE, 0xFF, 0xFF])
        + (start * sectors_per_mib).to_bytes(4, "little")
        + (length * sectors_per_mib).to_bytes(4, "little")
        for start, length, kind in parts
    )
    os.pwrite(fd, table.ljust(64, b"\0") + b"\x55\xaa", 446)
