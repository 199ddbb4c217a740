# SPDX-License-Identifier: Apache-2.0
"""A guest's disk, overlay and image together, made into one new file: its commands, its names, its room.

The file is made beside the image and then takes its place, so that whoever looks finds the old image or the new one,
whole, whatever is killed in between.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePath

import msgspec

from chslurm.errors import ChslurmError
from chslurm.plan import Image
from chslurm.units import render_size

_ASIDE = re.compile(r"\.chslurm-commit\.([0-9a-f]{8})\.[0-9a-f]{8}")
"""The new file while it has a name and is not the image yet: a digest of the image's name, and a random part."""


class _Qcow2(msgspec.Struct):
    compat: str = "1.1"
    compression: str = msgspec.field(name="compression-type", default="zlib")
    extended_l2: bool = msgspec.field(name="extended-l2", default=False)


class _FormatSpecific(msgspec.Struct):
    data: _Qcow2 = msgspec.field(default_factory=_Qcow2)


class _Snapshot(msgspec.Struct):
    name: str = ""


class ImageInfo(msgspec.Struct):
    """The part of `qemu-img info --output=json` that matters here."""

    virtual_bytes: int = msgspec.field(name="virtual-size")
    actual_bytes: int = msgspec.field(name="actual-size", default=0)
    cluster_bytes: int = msgspec.field(name="cluster-size", default=65536)
    backing: str | None = msgspec.field(name="full-backing-filename", default=None)
    snapshots: tuple[_Snapshot, ...] = ()
    specific: _FormatSpecific = msgspec.field(name="format-specific", default_factory=_FormatSpecific)


def parse_image_info(text: str) -> ImageInfo:
    """Return what `qemu-img info --output=json` says of one file."""
    return msgspec.json.decode(text, type=ImageInfo)


def make_source(overlay: PurePath | str, image: Image, *, locking: bool) -> list[str]:
    """Return the words that name a guest's disk to qemu-img; without `locking` it leaves QEMU's locks alone."""
    if locking:
        return ["-f", "qcow2", str(overlay)]
    node: dict[str, object] | None = None
    for path, kind in [(layer.path, layer.format) for layer in reversed(image.layers)] + [(str(overlay), "qcow2")]:
        below = {"backing": node} if kind == "qcow2" else {}
        node = {"driver": kind, "file": {"driver": "file", "filename": path, "locking": "off"}, **below}
    return [f"json:{json.dumps(node)}"]


def make_flatten_argv(
    source: list[str], image: Image, info: ImageInfo, target: PurePath | str, *, compress: bool
) -> list[str]:
    """Return the command that writes a guest's whole disk into one file of the image's format, made as that was."""
    options = _format_options(info) if image.format == "qcow2" else {}
    words = ["-o", ",".join(f"{name}={value}" for name, value in options.items())] if options else []
    return ["qemu-img", "convert", *(["-c"] if compress else []), *source, "-O", image.format, *words, str(target)]


def make_measure_argv(source: list[str], image: Image) -> list[str]:
    """Return the command that tells how large that file will be."""
    return ["qemu-img", "measure", "--output=json", *source, "-O", image.format]


def make_aside_name(image: PurePath, random: str) -> str:
    """Return the name of the new file before it is the image; `random` is 8 hexadecimal digits."""
    return f".chslurm-commit.{_tag(image)}.{random}"


def is_aside_name(name: str, image: PurePath) -> bool:
    """Say whether a file is one that a commit to this image made."""
    found = _ASIDE.fullmatch(name)
    return found is not None and found[1] == _tag(image)


def _tag(image: PurePath) -> str:
    return hashlib.sha256(image.name.encode(errors="surrogateescape")).hexdigest()[:8]


def check_room(needed_bytes: int, free_bytes: int, folder: PurePath | str, what: str, hint: str) -> None:
    """Raise ChslurmError when a file of this size does not fit beside the image."""
    if needed_bytes > free_bytes:
        sizes = f"{render_size((needed_bytes >> 20) + 1)} needed, {render_size(free_bytes >> 20)} free"
        raise ChslurmError(f"{what}: too little space in {folder}: {sizes}", hint=hint)


def _format_options(info: ImageInfo) -> dict[str, object]:
    """What differs from the defaults of QEMU 7.2."""
    qcow2 = info.specific.data
    options: dict[str, object] = {}
    if qcow2.compat != "1.1":
        options["compat"] = qcow2.compat
    if info.cluster_bytes != 65536:
        options["cluster_size"] = info.cluster_bytes
    if qcow2.compression != "zlib":
        options["compression_type"] = qcow2.compression
    if qcow2.extended_l2:
        options["extended_l2"] = "on"
    return options
