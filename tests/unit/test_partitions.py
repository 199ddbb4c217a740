# SPDX-License-Identifier: Apache-2.0
"""Partition tables, as guests and installers write them."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from kept import BOOT_MIB, MIB, make_gpt

from chslurm.partitions import Partition, parse_partitions


def make_mbr(*rows: tuple[int, int, int]) -> bytes:
    head = bytearray(512)
    for number, (kind, first, count) in enumerate(rows):
        struct.pack_into("<xxxxBxxxII", head, 446 + 16 * number, kind, first, count)
    return bytes(head[:510]) + b"\x55\xaa"


def test_gpt() -> None:
    assert parse_partitions(make_gpt()) == (
        Partition(1, "root", BOOT_MIB * MIB, 8 * MIB),
        Partition(2, "boot", MIB, (BOOT_MIB - 1) * MIB),
    )


def test_a_gpt_with_a_wrong_sum_is_none() -> None:
    head = bytearray(make_gpt())
    head[512 + 40] ^= 1
    assert parse_partitions(bytes(head)) == ()


def test_mbr() -> None:
    head = make_mbr((0x83, 2048, 4096), (0, 0, 0), (0x82, 8192, 2048))
    assert parse_partitions(head) == (Partition(1, "", MIB, 2 * MIB), Partition(3, "", 4 * MIB, MIB))
    assert parse_partitions(make_mbr((0xEE, 1, 1 << 31))) == ()
    assert parse_partitions(bytes(MIB)) == ()


@given(st.binary(max_size=600), st.integers(0, 1600))
def test_any_bytes_do_no_harm(data: bytes, at: int) -> None:
    head = bytearray(make_gpt())
    head[at : at + len(data)] = data
    for part in parse_partitions(bytes(head)):
        assert part.first_byte > 0
        assert part.size_bytes > 0
    parse_partitions(data)
