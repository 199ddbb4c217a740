# SPDX-License-Identifier: Apache-2.0
"""The boot bundle is written by guests, so every byte of it may be wrong."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.bundle import HEAD_BYTES, Slot, has_boot_bundle, parse_payload, parse_slots
from chslurm.errors import ChslurmError

MIB = 1024 * 1024
SUM = hashlib.sha256(b"").hexdigest()
PARTS = {"cmdline": b"root=/dev/vda1 rw\n", "initrd": b"070701" * 200, "vmlinux": b"\x7fELF" + b"k" * 2000}


def make_head(*headers: bytes, name: str = "boot", first: int = 2048, last: int = 526335) -> bytes:
    head = bytearray(HEAD_BYTES)
    struct.pack_into("<QQ", head, 1024 + 32, 526336, 1000000)
    struct.pack_into("<QQ", head, 1024 + 128 + 32, first, last)
    encoded = name.encode("utf-16-le")
    head[1024 + 128 + 56 : 1024 + 128 + 56 + len(encoded)] = encoded
    struct.pack_into("<8sIII", head, 512, b"EFI PART", 0x10000, 92, 0)
    struct.pack_into("<QII", head, 512 + 72, 2, 128, 128)
    struct.pack_into("<I", head, 512 + 16, zlib.crc32(head[512 : 512 + 92]))
    for i, header in enumerate(headers):
        head[MIB + i * 4096 : MIB + i * 4096 + len(header)] = header
    return bytes(head)


def make_header(generation: int, length: int = 5000, version: str = "6.1.0-1-amd64") -> bytes:
    return f"CHSLURM-BOOT 1 {generation} {length} {SUM} {version}\n".encode()


def make_payload(parts: dict[str, bytes] = PARTS, kind: bytes = tarfile.REGTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(content), kind
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


SOUND_HEAD = make_head(make_header(3, version="old"), make_header(4, version="new"))


def test_newest_slot_comes_first() -> None:
    slots = parse_slots(SOUND_HEAD)
    assert slots == (Slot(4, 129 * MIB, 5000, SUM, "new"), Slot(3, 2 * MIB, 5000, SUM, "old"))


def test_a_partition_is_a_boot_bundles_by_its_headers_not_by_its_name() -> None:
    assert has_boot_bundle(SOUND_HEAD)
    assert has_boot_bundle(make_head(make_header(1)))
    assert has_boot_bundle(make_head(b"", make_header(1)))
    assert not has_boot_bundle(make_head())
    assert not has_boot_bundle(make_head(make_header(1), name="root"))
    assert not has_boot_bundle(make_head(b"\xebX\x90mkfs.fat", make_header(1))), "left by what was there before"
    assert not has_boot_bundle(b"")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"CHSLURM-BOOT 2 4 5000 " + SUM.encode() + b" v\n",
        make_header(4, length=127 * MIB + 1),
        make_header(4, length=0),
        make_header(4, version="../v"),
        make_header(4) + b"more",
        b"\xff" * 4096,
    ],
)
def test_bad_header_leaves_the_other_slot(header: bytes) -> None:
    assert [slot.generation for slot in parse_slots(make_head(make_header(3), header))] == [3]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        bytes(HEAD_BYTES),
        SOUND_HEAD[:-1],
        make_head(make_header(1), name="root"),
        make_head(make_header(1), first=4096),
        make_head(make_header(1), last=4096),
        make_head(make_header(1), last=0),
    ],
)
def test_disk_without_boot_partition_has_no_bundle(head: bytes) -> None:
    assert parse_slots(head) == ()


@given(st.integers(0, 1024 + 256 - 1), st.integers(0, 7))
def test_a_flipped_bit_in_the_table_is_no_traceback(byte: int, bit: int) -> None:
    head = bytearray(SOUND_HEAD)
    head[byte] ^= 1 << bit
    assert parse_slots(bytes(head)) in ((), parse_slots(SOUND_HEAD))


@given(st.integers(MIB, MIB + 160), st.integers(0, 7))
def test_a_flipped_bit_in_a_header_harms_only_its_slot(byte: int, bit: int) -> None:
    head = bytearray(SOUND_HEAD)
    head[byte] ^= 1 << bit
    assert parse_slots(SOUND_HEAD)[0] in parse_slots(bytes(head))


def test_payload_gives_all_parts() -> None:
    payload = make_payload()
    parts = parse_payload(payload)
    assert payload[parts.kernel] == PARTS["vmlinux"]
    assert payload[parts.initrd] == PARTS["initrd"]
    assert parts.command_line == "root=/dev/vda1 rw"


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        (b"", "must hold"),
        (b"x" * 512, "not a tar archive"),
        (make_payload()[:2000], "cut off"),
        (make_payload({**PARTS, "vmlinux": b"MZ"}), "not an ELF file"),
        (make_payload({"vmlinux": b"\x7fELF"}), "must hold"),
        (make_payload({**PARTS, "extra": b""}), "must hold"),
        (make_payload({**PARTS, "cmdline": b"a\nb"}), "command line"),
        (make_payload({**PARTS, "cmdline": b"a" * 1025}), "command line"),
        (make_payload({**PARTS, "cmdline": b"\xff"}), "command line"),
        (make_payload()[:5632] + make_payload(), "twice"),
        (make_payload(dict.fromkeys(PARTS, b""), tarfile.SYMTYPE), "not a regular file"),
    ],
)
def test_bad_payload_is_one_clear_error(payload: bytes, cause: str) -> None:
    with pytest.raises(ChslurmError, match=cause):
        parse_payload(payload)


@given(st.integers(0, len(make_payload()) - 1), st.integers(1, 255))
def test_a_changed_byte_in_a_payload_is_no_traceback(at: int, change: int) -> None:
    payload = bytearray(make_payload())
    payload[at] ^= change
    with suppress(ChslurmError):
        assert parse_payload(memoryview(payload)).command_line.isprintable()


@given(st.binary(max_size=2048))
def test_any_bytes_are_no_traceback(payload: bytes) -> None:
    with pytest.raises(ChslurmError):
        parse_payload(payload)
