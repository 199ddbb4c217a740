# SPDX-License-Identifier: Apache-2.0
"""What may be installed from and into, and the machine that does it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from chslurm.errors import UsageError
from chslurm.installer import (
    MEDIA_BYTES,
    Installer,
    find_media_fault,
    find_target_format,
    is_empty,
    make_installer_argv,
)
from chslurm.plan import Accelerator

MACHINE = Installer("/iso, 1.iso", "/image.qcow2", "qcow2", 2, 2048, Accelerator.TCG, None)


def make_media(*, descriptor: bytes = b"\1CD001\1", boot: bytes = b"\0CD001\1EL TORITO SPECIFICATION") -> bytes:
    head = bytearray(MEDIA_BYTES)
    head[32768 : 32768 + len(descriptor)] = descriptor
    head[34816 : 34816 + len(boot)] = boot
    return bytes(head)


def test_media() -> None:
    assert find_media_fault(make_media()) is None
    assert find_media_fault(make_media(descriptor=b"")) == "not an ISO 9660 file system"
    assert find_media_fault(make_media(boot=b"\xffCD001\1")) == "nothing can be booted from it"
    assert find_media_fault(b"") == "not an ISO 9660 file system"


def test_target() -> None:
    assert find_target_format(b"QFI\xfb" + bytes(508)) == "qcow2"
    assert find_target_format(bytes(512)) == "raw"
    assert find_target_format(b"") == "raw"
    assert find_target_format(b"boot" + bytes(506) + b"\x55\xaa") == "raw"
    with pytest.raises(UsageError, match="not a disk image"):
        find_target_format(b"#!/bin/sh\n")


def test_empty() -> None:
    head = bytes(8192)
    assert is_empty("[]", head)
    assert is_empty('[{"start": 0, "length": 100000, "depth": 0, "zero": true, "data": false}]', head)
    assert is_empty('[{"start": 0, "length": 100000, "zero": true, "data": true}]', head)
    first = '[{"start": 0, "length": 4096, "zero": false, "data": true}]'
    assert is_empty(first, head)
    assert not is_empty(first, b"\1" + head)
    assert not is_empty('[{"start": 8192, "length": 1, "zero": false, "data": true, "offset": 5}]', head)


def blocks(argv: list[str]) -> list[dict[str, object]]:
    return [json.loads(word) for option, word in pairwise(argv) if option == "-blockdev"]


def test_the_machine() -> None:
    argv = make_installer_argv(MACHINE, "qemu")
    media, disk = blocks(argv)
    assert media == {
        "node-name": "media",
        "driver": "raw",
        "read-only": True,
        "file": {"driver": "file", "filename": "/iso, 1.iso"},
    }
    assert disk["file"] == {"driver": "file", "filename": "/image.qcow2"}, "with QEMU's locks"
    assert disk["backing"] is None, "whatever its header says"
    text = " ".join(argv)
    for words in (
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-nodefaults -no-user-config -no-reboot",
        "-serial mon:stdio",
        "-display none",
        "-machine q35,graphics=off",
        "-netdev user,id=net -device",
    ):
        assert words in text
    assert "hostfwd" not in text


def test_a_raw_disk_and_a_window() -> None:
    argv = make_installer_argv(replace(MACHINE, image_format="raw", display="gtk", accelerator=Accelerator.KVM), "qemu")
    assert "backing" not in blocks(argv)[1]
    text = " ".join(argv)
    assert "-display gtk -device VGA" in text
    assert "-accel kvm -cpu host" in text
    assert "graphics=on" in text
