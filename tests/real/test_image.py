# SPDX-License-Identifier: Apache-2.0
"""A built image, looked at from outside: the disk, what must not be in it, and its boot bundle.

The image is that of the environment variable CHSLURM_IMAGE. Nothing here boots it; see the tests of the launcher.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chslurm.errors import ChslurmError
from chslurm.host.bundle import read_boot_bundle

pytestmark = pytest.mark.real

MIB = 1024 * 1024
ROOT_AT = 257 * MIB
SLOT_HEADER_AT = MIB
ODD_NAMES = ["a,b.qcow2", "a b", "x\ny", "nbd:x", "json:{x", "k=v,driver=raw", "Bücher", "\udcff"]


@pytest.fixture(scope="module")
def image() -> Path:
    if not (name := os.environ.get("CHSLURM_IMAGE")):
        pytest.fail("CHSLURM_IMAGE must name an image; misc/test sets it")
    return Path(name)


@pytest.fixture(scope="module")
def raw(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The disk as a sparse raw file, which debugfs can read."""
    path = tmp_path_factory.mktemp("disk") / "raw"
    run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", image, path)
    yield path
    path.unlink()


@pytest.fixture
def overlay(image: Path, tmp_path: Path) -> Path:
    path = tmp_path / "overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.absolute(), "-F", "qcow2", path)
    return path


def run(*argv: str | Path) -> str:
    search = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=search, timeout=120).stdout


def in_image(raw: Path, *request: str) -> str:
    return run("debugfs", "-R", " ".join(request), f"{raw}?offset={ROOT_AT}")


def read_file(raw: Path, name: str) -> str:
    return in_image(raw, "cat", name)


def names_in(raw: Path, folder: str) -> list[str]:
    rows = (line.split("/") for line in in_image(raw, "ls", "-p", folder).splitlines())
    return sorted(row[5] for row in rows if len(row) > 6 and row[5] not in (".", ".."))


def write_at(disk: Path, offset: int, data: bytes) -> None:
    run("qemu-io", "-f", "qcow2", "-c", f"write -P {data[0]} {offset} {len(data)}", disk)


def test_disk_is_sound_and_not_too_large(image: Path) -> None:
    run("qemu-img", "check", "-U", "-q", "-f", "qcow2", image)
    assert image.stat().st_blocks * 512 < 1200 * MIB


def test_root_is_partition_1_and_boot_lies_first(raw: Path) -> None:
    table = run("sgdisk", "--print", raw)
    rows = [line.split() for line in table.splitlines() if re.match(r" +[0-9]", line)]
    assert [(row[0], row[1], row[-1]) for row in rows] == [("1", "526336", "root"), ("2", "2048", "boot")]


def test_root_file_system_is_as_promised(raw: Path) -> None:
    superblock = in_image(raw, "stats", "-h")
    assert re.search(r"volume name: +root$", superblock, re.MULTILINE)
    assert read_file(raw, "/etc/machine-id") == ""
    assert 'Fast link dest: "/ch/meta/hosts"' in in_image(raw, "stat", "/etc/hosts")
    assert re.search(r"^charlie:x:1000:65530:.*:/home/charlie:/bin/bash$", read_file(raw, "/etc/passwd"), re.MULTILINE)
    assert "User:  1000   Group: 65530" in in_image(raw, "stat", "/home/charlie")


def test_no_keys_and_nothing_of_the_builder(raw: Path) -> None:
    assert [name for name in names_in(raw, "/etc/ssh") if name.startswith("ssh_host")] == []
    assert names_in(raw, "/root/.ssh") == []
    assert names_in(raw, "/home/charlie/.ssh") == []
    assert names_in(raw, "/etc/apt/sources.list.d") == ["debian.sources"]
    assert not [name for name in names_in(raw, "/etc/apt/apt.conf.d") if "mmdebstrap" in name]
    assert names_in(raw, "/var/lib/apt/lists") == []
    assert "chslurm-build" not in names_in(raw, "/")
    assert names_in(raw, "/tmp") == []


def test_bundle_is_read_through_an_overlay(overlay: Path) -> None:
    bundle = read_boot_bundle(overlay, "qcow2")
    assert bundle is not None
    with bundle:
        assert os.pread(bundle.kernel_fd, 4, 0) == b"\x7fELF"
        assert os.pread(bundle.initrd_fd, 6, 0) == b"070701"
        assert "root=/dev/vda1" in bundle.command_line
        assert bundle.version
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(bundle.kernel_fd)


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_bundle_is_read_whatever_the_name_of_the_disk(overlay: Path, name: str) -> None:
    odd = overlay.rename(overlay.parent / name)
    bundle = read_boot_bundle(odd, "qcow2")
    assert bundle is not None
    bundle.close()


def test_damaged_payload_is_refused_in_one_line(overlay: Path) -> None:
    write_at(overlay, 3 * MIB, b"X" * 512)
    with pytest.raises(ChslurmError, match="boot bundle is damaged") as caught:
        read_boot_bundle(overlay, "qcow2")
    assert "\n" not in str(caught.value)


def test_disk_without_a_bundle_boots_by_its_own_loader(overlay: Path, tmp_path: Path) -> None:
    write_at(overlay, SLOT_HEADER_AT, b"\0" * 8192)
    assert read_boot_bundle(overlay, "qcow2") is None
    tiny = tmp_path / "tiny.raw"
    tiny.write_bytes(b"x" * 1000)
    assert read_boot_bundle(tiny, "raw") is None


def test_what_is_no_disk_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"x" * 1000)
    with pytest.raises(ChslurmError, match="not in qcow2 format"):
        read_boot_bundle(wrong, "qcow2")
    with pytest.raises(ChslurmError, match="No such file"):
        read_boot_bundle(tmp_path / "none", "qcow2")
