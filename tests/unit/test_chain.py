# SPDX-License-Identifier: Apache-2.0
"""Which images are booted from."""

from __future__ import annotations

import json

import pytest

from chslurm.chain import check_layer, find_image_format
from chslurm.errors import UsageError


def info(**fields: object) -> str:
    return json.dumps({"virtual-size": 1, "filename": "x", "format": "qcow2", **fields})


def test_formats() -> None:
    assert find_image_format("/i", b"QFI\xfb" + bytes(508)) == "qcow2"
    assert find_image_format("/i", bytes(510) + b"\x55\xaa") == "raw"


@pytest.mark.parametrize(
    "header", [b"", b"QFI", bytes(512), b"#!/bin/sh\n", b"KDMV" + bytes(508), b"\x7fELF" + bytes(508)]
)
def test_what_is_no_disk_is_refused(header: bytes) -> None:
    with pytest.raises(UsageError, match="image '/i': not a disk image"):
        find_image_format("/i", header)


def test_a_layer_beside_the_image_is_followed() -> None:
    assert check_layer("/vm/a, b.qcow2", info()) is None
    for backing in ("base.qcow2", "/vm/base.qcow2", "./base.qcow2"):
        layer = info(**{"backing-filename": backing, "backing-filename-format": "qcow2"})
        assert check_layer("/vm/top.qcow2", layer) == ("/vm/base.qcow2", "qcow2")


@pytest.mark.parametrize(
    "backing",
    ["/etc/passwd", "../base", "sub/base", "nbd:host:1", "json:{}", "http://h/x", "nbd://h", "/vm/../etc/passwd", ".."],
)
def test_a_layer_elsewhere_is_refused(backing: str) -> None:
    with pytest.raises(UsageError, match="does not lie beside it"):
        check_layer("/vm/top.qcow2", info(**{"backing-filename": backing, "backing-filename-format": "raw"}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"encrypted": True}, "encrypted"),
        ({"format-specific": {"type": "qcow2", "data": {"corrupt": True}}}, "corrupt"),
        ({"format-specific": {"type": "qcow2", "data": {"data-file": "x.raw"}}}, "another file"),
        ({"backing-filename": "base"}, "does not say the format"),
        ({"backing-filename": "base", "backing-filename-format": "vmdk"}, "does not say the format"),
    ],
)
def test_other_layers_that_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_layer("/vm/top.qcow2", info(**fields))
