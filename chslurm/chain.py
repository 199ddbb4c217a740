# SPDX-License-Identifier: Apache-2.0
"""May we boot from this image? Decided from its first bytes and what `qemu-img info` says about each of its layers.

The format is found here, once, and is always told to QEMU after that: QEMU's own guess could be steered by whoever
wrote into a raw image. An image is input, perhaps a stranger's: its header may name any file as backing file, and QEMU
would open it with the user's rights and show it to the guest. So every layer has to lie beside the image, by its name
and in truth; what was found is in the plan, and QEMU is given that and does not look at the headers.
"""

from __future__ import annotations

from pathlib import PurePath

import msgspec

from chslurm.errors import UsageError
from chslurm.units import quote

HEADER_BYTES = 512
MAX_LAYERS = 16

_QCOW2_MAGIC = b"QFI\xfb"
_BOOT_SIGNATURE = b"\x55\xaa"


class _Qcow2(msgspec.Struct):
    corrupt: bool = False
    data_file: str | None = msgspec.field(name="data-file", default=None)


class _FormatSpecific(msgspec.Struct):
    data: _Qcow2 = msgspec.field(default_factory=_Qcow2)


class _Info(msgspec.Struct):
    """The part of `qemu-img info --output=json` that we judge."""

    encrypted: bool = False
    backing: str | None = msgspec.field(name="backing-filename", default=None)
    backing_format: str | None = msgspec.field(name="backing-filename-format", default=None)
    specific: _FormatSpecific = msgspec.field(name="format-specific", default_factory=_FormatSpecific)


def find_image_format(path: str, header: bytes) -> str:
    """Return "qcow2" or "raw" by the first HEADER_BYTES of a file. Raises UsageError for anything else."""
    if header.startswith(_QCOW2_MAGIC):
        return "qcow2"
    if header[510:512] == _BOOT_SIGNATURE:
        return "raw"
    hint = "give a qcow2 image, or a raw one with a partition table; others: qemu-img convert"
    raise UsageError(f"image {quote(path)}: not a disk image", hint=hint)


def check_layer(path: str, info: str) -> tuple[str, str] | None:
    """Return (path, format) of the layer below `path`, None for the lowest. `info` is the JSON of `qemu-img info`.

    Raises UsageError when the layer is damaged, encrypted, or leads to a file that does not lie beside it.
    """
    layer = msgspec.json.decode(info, type=_Info)
    name = f"image {quote(path)}"
    if layer.encrypted:
        raise UsageError(f"{name}: it is encrypted", hint="decrypt it with qemu-img convert")
    if layer.specific.data.corrupt:
        raise UsageError(f"{name}: it is marked corrupt", hint="repair it with qemu-img check -r all, or take a copy")
    if layer.specific.data.data_file is not None:
        raise UsageError(f"{name}: its data is in another file", hint="make one file of it with qemu-img convert")
    if layer.backing is None:
        return None
    below = PurePath(path).parent / layer.backing
    check_beside(path, layer.backing, below)
    if layer.backing_format not in ("qcow2", "raw"):
        hint = "write it down with qemu-img rebase -u -F FORMAT"
        raise UsageError(f"{name}: it does not say the format of its backing file {quote(layer.backing)}", hint=hint)
    return str(below), layer.backing_format


def check_beside(path: str, backing: str, place: PurePath) -> None:
    """Raise UsageError unless `place`, where the backing file `backing` is, lies in the folder of the layer `path`."""
    if place.parent != PurePath(path).parent or place.name == ".." or ":" in backing:
        hint = "make one file of it with qemu-img convert"
        raise UsageError(f"image {quote(path)}: its backing file {quote(backing)} does not lie beside it", hint=hint)
