# SPDX-License-Identifier: Apache-2.0
"""STORIES of looking at an image: `chslurm image info` and `history`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chslurm.bundle import HEAD_BYTES, parse_slots
from chslurm.history import Entry, render_entry
from chslurm.host.bundle import read_head
from chslurm.host.history import read_history
from chslurm.host.place import read_image
from chslurm.host.target import ask_about, find_holders, read_use
from chslurm.messages import printable
from chslurm.partitions import Partition, parse_partitions
from chslurm.plan import Layer
from chslurm.units import quote, render_size


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel in the boot bundle; the newest generation that is whole is booted."""

    version: str
    generation: int


@dataclass(frozen=True, slots=True)
class ImageLook:
    """What is to be seen of an image from outside, as `--json` prints it."""

    path: str
    format: str
    virtual_bytes: int
    disk_bytes: int  # that the file takes
    layers: tuple[Layer, ...]  # what identifies the image is in the first
    kernels: tuple[Kernel, ...]  # the one to boot first; none: it boots by its own loader
    root: Partition | None  # partition 1
    written: bool  # a program has it open for writing, by QEMU's locks
    read: bool  # likewise, for reading
    holders: tuple[str, ...]  # processes of this machine that have it open, as far as we may see
    history: tuple[Entry, ...] | None  # None: it has no boot bundle


def look_at_image(file: Path) -> ImageLook:
    """Return what is to be seen of an image; a running guest may use it meanwhile. Raises UsageError, ChslurmError."""
    image = read_image(file)
    path = Path(image.path)
    head = bytes(read_head(path, image.format))
    use = read_use(path)
    return ImageLook(
        path=image.path,
        format=image.format,
        virtual_bytes=ask_about(path, image.format).virtual_bytes,
        disk_bytes=path.stat().st_blocks * 512,
        layers=image.layers,
        kernels=tuple(Kernel(slot.version, slot.generation) for slot in parse_slots(head)),
        root=next((part for part in parse_partitions(head[:HEAD_BYTES]) if part.number == 1), None),
        written=use.written,
        read=use.read,
        holders=tuple(find_holders(path)),
        history=read_history(path, image.format),
    )


def look_to_json(look: ImageLook) -> bytes:
    """Return it as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(look), indent=1) + b"\n"


def render_look(look: ImageLook) -> Iterator[str]:
    """Yield the lines that people read."""
    top = look.layers[0]
    rows = [
        ("image", f"{look.path} ({look.format})"),
        ("size", f"{_size(look.virtual_bytes)}, of which the file takes {_size(look.disk_bytes)}"),
        *(("on", f"{layer.path} ({layer.format})") for layer in look.layers[1:]),
        ("identity", f"inode {top.inode}, {top.size_bytes} bytes, mtime {top.mtime_ns} ns, ctime {top.ctime_ns} ns"),
        ("root", _render_root(look.root)),
        ("kernel", ", then ".join(kernel.version for kernel in look.kernels) or "none that can be seen: own loader"),
        ("used by", _render_use(look)),
    ]
    for name, text in rows:
        yield f"{name + ':':<10}{text}"
    for number, line in enumerate(render_history(look.history)):
        yield f"{'' if number else 'history:':<10}{line}"


def render_history(history: tuple[Entry, ...] | None) -> list[str]:
    """Return a line for each entry, the oldest first, or one that says why there is none."""
    if history is None:
        return ["carries none: it has no boot bundle"]
    return [render_entry(entry) for entry in history] or ["empty"]


def read_image_history(file: Path) -> tuple[Entry, ...] | None:
    """Return the history that an image carries. Raises UsageError, ChslurmError."""
    image = read_image(file)
    return read_history(Path(image.path), image.format)


def _render_root(root: Partition | None) -> str:
    if root is None:
        return "no partition 1"
    name = f" {quote(printable(root.name))}" if root.name else ""
    return f"partition 1{name}, {_size(root.size_bytes)} at {_size(root.first_byte)}"


def _render_use(look: ImageLook) -> str:
    how = "written to now" if look.written else "guests or others that read it" if look.read else "nobody"
    return f"{how}: {', '.join(look.holders)}" if look.holders else how


def _size(size_bytes: int) -> str:
    return render_size(size_bytes >> 20)
