# SPDX-License-Identifier: Apache-2.0
"""An image of several layers, from a look at it to a host's use of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from chslurm.errors import ChslurmError
from chslurm.guest import make_image_disk
from chslurm.host.disks import check_unchanged
from chslurm.host.place import read_image


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The upper one of two layers."""
    for name, options in (("base.qcow2", ()), ("top.qcow2", ("-b", "base.qcow2", "-F", "qcow2"))):
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", *options, name, "1M"]
        subprocess.run(argv, check=True, timeout=20, cwd=tmp_path)
    return tmp_path / "top.qcow2"


def test_every_layer_is_recorded(top: Path) -> None:
    (top.parent / "a").mkdir()
    (top.parent / "a/link").symlink_to(top)
    image = read_image(top.parent / "a/link")
    assert (image.path, image.format) == (str(top), "qcow2")
    assert [layer.path for layer in image.layers] == [str(top), str(top.with_name("base.qcow2"))]
    check_unchanged(image)
    disk = make_image_disk(image)
    assert disk.backing is not None
    assert disk.backing.path == image.layers[1].path


def test_a_backing_file_that_a_link_names_is_itself_recorded(top: Path) -> None:
    real = top.with_name("real.qcow2")
    top.with_name("base.qcow2").rename(real)
    top.with_name("base.qcow2").symlink_to(real)
    assert read_image(top).layers[1].path == str(real)


@pytest.mark.parametrize("name", ["top.qcow2", "base.qcow2"])
def test_a_layer_that_was_replaced_by_its_like_is_noticed(top: Path, name: str) -> None:
    image, layer = read_image(top), top.with_name(name)
    was = layer.stat()
    layer.with_name("like").write_bytes(layer.read_bytes())
    layer.with_name("like").rename(layer)
    os.utime(layer, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(ChslurmError, match=f"{name}: not the file that was planned with"):
        check_unchanged(image)


def test_a_layer_that_was_rewritten_and_dated_back_is_noticed(top: Path) -> None:
    image = read_image(top)
    was = top.stat()
    argv = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", str(top)]
    subprocess.run(argv, check=True, timeout=20)
    os.truncate(top, was.st_size)
    os.utime(top, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(ChslurmError, match="not the file that was planned with"):
        check_unchanged(image)


def test_a_layer_that_is_gone_is_named(top: Path) -> None:
    image = read_image(top)
    Path(image.layers[1].path).unlink()
    with pytest.raises(ChslurmError, match=r"base\.qcow2: No such file"):
        check_unchanged(image)
