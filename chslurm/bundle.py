# SPDX-License-Identifier: Apache-2.0
"""The boot bundle: how an image carries its kernel, so that its host can boot it without mounting anything.

The image has a GPT with a partition named `boot` that starts at 1 MiB. It holds two slots, written by turns from inside
a guest (`guest/image/root/usr/lib/chslurm/boot-bundle`), so that one of them is whole at any moment:

    block 0, block 1     header of slot 0 and of slot 1, 4 KiB each, the rest of a header is zero:
                         "CHSLURM-BOOT 1 GENERATION LENGTH SHA256 KERNEL-VERSION\\n"
    64 KiB               history of the image, up to 1 MiB: see `history`
    1 MiB, 128 MiB       payload of slot 0 and of slot 1: tar of vmlinux, initrd, cmdline; at most 127 MiB

What is read here was written by a guest, so nothing in it is believed before it is checked. Pure: bytes in, values out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from chslurm.errors import ChslurmError
from chslurm.partitions import parse_partitions

_MIB = 1024 * 1024
_SECTOR = 512
_HEADER_BYTES = 4096
_BOOT_AT = 1 * _MIB
_PAYLOAD_AT = (_BOOT_AT + 1 * _MIB, _BOOT_AT + 128 * _MIB)
_PAYLOAD_MAX = 127 * _MIB
_COMMAND_LINE_MAX = 1024

HEAD_BYTES = _BOOT_AT + len(_PAYLOAD_AT) * _HEADER_BYTES
"""So much of the start of a disk `parse_slots` wants to see: partition table and both headers."""

_HEADER = re.compile(
    rb"CHSLURM-BOOT 1 ([1-9][0-9]{0,17}) ([1-9][0-9]{0,17}) ([0-9a-f]{64}) ([0-9A-Za-z][0-9A-Za-z.+~_-]{0,63})\n"
)
_COMMAND_LINE = re.compile(rb"[ -~]*")


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one bundle lies on the disk and what its bytes must be."""

    generation: int
    offset_bytes: int
    length_bytes: int
    sha256: str
    version: str  # of the kernel


@dataclass(frozen=True, slots=True)
class Payload:
    """What a bundle holds. Kernel and initramfs are slices of its bytes, for they are large."""

    kernel: slice
    initrd: slice
    command_line: str


def parse_slots(head: bytes) -> tuple[Slot, ...]:
    """Return the slots that have a sound header, the newest first.

    `head` is the start of the disk, HEAD_BYTES of it. None at all: the disk has no boot bundle.
    """
    slots = (_parse_header(header, offset) for header, offset in zip(_headers(head), _PAYLOAD_AT, strict=False))
    return tuple(sorted((slot for slot in slots if slot), key=lambda slot: -slot.generation))


def has_boot_bundle(head: bytes) -> bool:
    """Say whether the partition `boot` of the disk that begins with `head` is a boot bundle's, and nobody else's.

    A name and a place prove nothing: many a system has its file system for /boot there. Nor does a header that some
    such file system has left in the second block; the first none leaves alone.
    """
    headers = _headers(head)
    foreign = bool(headers) and headers[0].strip(b"\0") and not _parse_header(headers[0], 0)
    return bool(parse_slots(head)) and not foreign


def parse_payload(payload: bytes | memoryview) -> Payload:
    """Return the parts of a payload. Raises ChslurmError when it is not exactly what boot-bundle writes."""
    parts: dict[str, slice] = {}
    at = 0
    while (block := bytes(payload[at : at + _SECTOR])).strip(b"\0"):
        name, size = _parse_tar_header(block)
        start = at + _SECTOR
        if name in parts or start + size > len(payload):
            raise _bad(f"{name} is there twice or cut off")
        parts[name] = slice(start, start + size)
        at = start + -(-size // _SECTOR) * _SECTOR
    if parts.keys() != {"vmlinux", "initrd", "cmdline"}:
        raise _bad("it must hold vmlinux, initrd and cmdline")
    if bytes(payload[parts["vmlinux"]][:4]) != b"\x7fELF":
        raise _bad("vmlinux is not an ELF file")
    return Payload(parts["vmlinux"], parts["initrd"], _parse_command_line(bytes(payload[parts["cmdline"]])))


def _headers(head: bytes) -> list[bytes]:
    """Return both blocks for headers; none when the disk has no partition `boot` where it has to be."""
    room = _PAYLOAD_AT[-1] - _BOOT_AT + _PAYLOAD_MAX
    there = len(head) >= HEAD_BYTES and any(
        part.name == "boot" and part.first_byte == _BOOT_AT and part.size_bytes >= room
        for part in parse_partitions(head)
    )
    if not there:
        return []
    return [head[_BOOT_AT + i * _HEADER_BYTES :][:_HEADER_BYTES] for i in range(len(_PAYLOAD_AT))]


def _parse_header(header: bytes, offset_bytes: int) -> Slot | None:
    found = _HEADER.match(header)
    if not found or header[found.end() :].strip(b"\0"):
        return None
    generation, length = int(found[1]), int(found[2])
    if length > _PAYLOAD_MAX:
        return None
    return Slot(generation, offset_bytes, length, found[3].decode(), found[4].decode())


def _parse_tar_header(block: bytes) -> tuple[str, int]:
    """Return name and size of a regular file out of a ustar header."""
    checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if len(block) < _SECTOR or block[257:262] != b"ustar" or _parse_octal(block[148:156]) != checksum:
        raise _bad("it is not a tar archive")
    name = block[:100].rstrip(b"\0").decode("ascii", "replace")
    if block[156:157] not in (b"0", b"\0"):
        raise _bad(f"{name!a} is not a regular file")
    return name, _parse_octal(block[124:136])


def _parse_octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]{1,11}", digits):
        raise _bad("it is not a tar archive")
    return int(digits, 8)


def _parse_command_line(text: bytes) -> str:
    line = text.strip()
    if len(line) > _COMMAND_LINE_MAX or not _COMMAND_LINE.fullmatch(line):
        raise _bad("its kernel command line is too long, or has characters other than printable ASCII")
    return line.decode("ascii")


def _bad(cause: str) -> ChslurmError:
    return ChslurmError(f"bad boot bundle: {cause}", hint="run boot-bundle in a guest of this image, or build it again")
