# SPDX-License-Identifier: Apache-2.0
"""The partitions of a disk, from its first bytes: GPT (UEFI specification, 5.3) or MBR. Hostile input, nothing else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_SECTOR = 512
_ENTRIES_END = 1024 * 1024
_ENTRIES_MAX_BYTES = 1024 * 128
_MBR_SIGNATURE = b"\x55\xaa"


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. `name` is empty in an MBR, which has none."""

    number: int
    name: str
    first_byte: int
    size_bytes: int


def parse_partitions(head: bytes) -> tuple[Partition, ...]:
    """Return the partitions of the disk that begins with `head`, in order of their numbers; none when it has no table.

    `head` is to be 1 MiB at least: a table that reaches beyond its end is not seen.
    """
    return tuple(_parse_gpt(head)) or tuple(_parse_mbr(head))


def _parse_gpt(head: bytes) -> Iterator[Partition]:
    table = head[_SECTOR : 2 * _SECTOR]
    if len(table) < _SECTOR or table[:8] != b"EFI PART":
        return
    size, crc = struct.unpack_from("<II", table, 12)
    if not 92 <= size <= _SECTOR or zlib.crc32(table[:16] + bytes(4) + table[20:size]) != crc:
        return
    entries_at, count, entry_size = struct.unpack_from("<QII", table, 72)
    if entries_at > _ENTRIES_END // _SECTOR or entry_size < 128 or count * entry_size > _ENTRIES_MAX_BYTES:
        return
    for number in range(1, count + 1):
        entry = head[entries_at * _SECTOR + (number - 1) * entry_size :][:128]
        if len(entry) == 128:
            first, last = struct.unpack_from("<QQ", entry, 32)
            if 0 < first <= last:
                name = entry[56:128].decode("utf-16-le", "replace").rstrip("\0")
                yield Partition(number, name, first * _SECTOR, (last + 1 - first) * _SECTOR)


def _parse_mbr(head: bytes) -> Iterator[Partition]:
    if head[510:512] != _MBR_SIGNATURE:
        return
    for number in range(1, 5):
        kind, first, count = struct.unpack_from("<xxxxBxxxII", head, 446 + 16 * (number - 1))
        if kind not in (0, 0xEE) and first and count:  # 0xEE only says that there is a GPT
            yield Partition(number, "", first * _SECTOR, count * _SECTOR)
