# SPDX-License-Identifier: Apache-2.0
"""An image as the target of a commit: rights, room and users, looked at early and again before it is replaced."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from chslurm.commit import LOCK_BYTES, Use
from chslurm.errors import ChslurmError, UsageError
from chslurm.flatten import ImageInfo, check_room, make_measure_argv, parse_image_info
from chslurm.host.files import read_file_system
from chslurm.host.process import run
from chslurm.plan import Image
from chslurm.planner import is_network_file_system
from chslurm.units import quote

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of fcntl(2) where off_t has 64 bits: type, whence, start, length, pid."""


class _Measure(msgspec.Struct):
    required: int


def check_target(image: Image) -> None:
    """Raise UsageError unless a commit to this image could be made now. A look only: nothing is made."""
    layer, name = image.layers[0], f"--commit: image {quote(image.path)}"
    path = Path(layer.path)
    try:
        found = path.stat()
    except OSError as error:
        hint = "bring it back: without it an overlay is worth nothing"
        raise UsageError(f"{name}: {error.strerror}", hint=hint) from error
    _check_rights(path, found, name)
    if found.st_nlink > 1:
        hint = "the others would keep what it holds now: take a copy, or remove them"
        raise UsageError(f"{name}: it has {found.st_nlink} names (hard links)", hint=hint)
    info = ask_about(path, layer.format)
    if info.snapshots:
        hint = f"they would be lost: qemu-img snapshot -d {info.snapshots[0].name}, or take a copy"
        raise UsageError(f"{name}: it holds {len(info.snapshots)} snapshots of its own", hint=hint)
    if read_use(path).written:
        raise UsageError(f"{name}: a program is writing to it", hint="wait until that has ended")
    try:
        needed = measure(["-U", "-f", image.format, image.path], image)
        check_room(needed, read_free(path.parent), path.parent, name, "make room first, or take the image elsewhere")
    except ChslurmError as error:
        raise UsageError(error.message, hint=error.hint) from error


def _check_rights(path: Path, found: os.stat_result, name: str) -> None:
    """A new file takes its place, so the folder has to be ours to write to, and owner and group ours to give."""
    if not os.access(path, os.W_OK, effective_ids=True):
        raise UsageError(f"{name}: not writable", hint="chmod u+w it, take a copy, or ask its owner")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        hint = "the new image is made beside the old one: take a copy to a folder of yours"
        raise UsageError(f"{name}: its folder is not writable", hint=hint)
    uid = os.geteuid()
    if uid == 0:
        return
    if found.st_uid != uid:
        hint = "the new image would be yours: take a copy, or ask its owner"
        raise UsageError(f"{name}: it belongs to another user (uid {found.st_uid})", hint=hint)
    if found.st_gid not in {os.getegid(), *os.getgroups()}:
        hint = "chgrp it to one of yours"
        raise UsageError(f"{name}: it belongs to a group that you are not in (gid {found.st_gid})", hint=hint)


def ask_about(path: Path | str, image_format: str) -> ImageInfo:
    """Return what qemu-img says about one file of an image; also while a guest runs from it."""
    return parse_image_info(run(["qemu-img", "info", "-U", "--output=json", "-f", image_format, path]).stdout)


def measure(source: list[str], image: Image) -> int:
    """Return how many bytes a file of the image's format takes that holds `source`."""
    return msgspec.json.decode(run(make_measure_argv(source, image)).stdout, type=_Measure).required


def read_free(folder: Path) -> int:
    """Return how many bytes an ordinary user can still write there."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def is_shared(path: Path) -> bool:
    """Say whether a file lies on a file system across the network."""
    return is_network_file_system(read_file_system(path))


def read_use(path: Path) -> Use:
    """Return who uses an image now, by the locks that QEMU's programs hold on it; our own do not count."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        written, used = (_is_locked(fd, start, length) for start, length in LOCK_BYTES)
    finally:
        os.close(fd)
    return Use(written=written, read=used)


def find_holders(path: Path) -> Iterator[str]:
    """Yield the processes on this machine that have a file open, as far as we may see: `qemu-img (pid 12)`."""
    wanted = path.stat()
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        if process.name != str(os.getpid()):
            with suppress(OSError):
                if any(_is_file(fd, wanted) for fd in (process / "fd").iterdir()):
                    name = (process / "comm").read_text(errors="replace").strip()
                    yield f"{''.join(c if c.isprintable() else '?' for c in name)} (pid {process.name})"


def _is_locked(fd: int, start: int, length: int) -> bool:
    """Say whether QEMU holds a lock there. File systems without locks say that nobody does.

    A lock of the whole file is not QEMU's, but, where flock is made of the same stuff (NFS), that of our own commit.
    """
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    try:
        kind, _, first, count, _ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted))
    except OSError:
        return False
    return bool(kind != fcntl.F_UNLCK and (first, count) != (0, 0))


def _is_file(link: Path, wanted: os.stat_result) -> bool:
    with suppress(OSError):
        found = link.stat()
        return stat.S_ISREG(found.st_mode) and os.path.samestat(found, wanted)
    return False
