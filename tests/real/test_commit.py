# SPDX-License-Identifier: Apache-2.0
"""Commits for real: what a guest installed is there at the next boot, its kernel too; a killed one changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from media import INSTALLED, make_media
from realbox import Box, Job, Result, wait_for

pytestmark = pytest.mark.real

INSTALL = """#!/bin/sh
set -e
cat /ch/meta/commit
sudo sh -c 'echo installed > /etc/mark; sed -i "s/$/ chslurm.mark=1/" /etc/chslurm/cmdline'
sudo /usr/lib/chslurm/boot-bundle
"""
"""Changes a file, and what the kernel is told; boot-bundle is what the hook of a new kernel runs."""

LOOK = """#!/bin/sh
cat /etc/mark && grep -o chslurm.mark=1 /proc/cmdline
touch /ch/data1/looked
while [ ! -e /ch/data1/go ]; do sleep 0.1; done
"""


@pytest.fixture
def image(box: Box) -> Path:
    """A copy of the image that belongs to the user."""
    path = box.folder / "image.qcow2"
    assert box("cp", "--sparse=always", box.image, "image.qcow2").returncode == 0
    assert box("chmod", "u+w", "image.qcow2").returncode == 0
    return path


def vcluster(box: Box, *options: str) -> Result:
    return box("vcluster", "-n1", "--cores=1", "--ram=512M", "--commit=0", "--jobdir=c", *options, "image.qcow2")


def identity(image: Path) -> tuple[int, int, int]:
    found = image.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def commit_of(box: Box) -> dict[str, Any]:
    commit: dict[str, Any] = Job(box, "").summary()["commit"]
    return commit


def info(box: Box) -> dict[str, Any]:
    done = box("chslurm", "image", "info", "--json", "image.qcow2")
    assert done.returncode == 0, done.stderr
    look: dict[str, Any] = json.loads(done.stdout)
    return look


@pytest.mark.long  # the tutorial commits and boots what it has committed; tests/commands has the rest
def test_what_is_committed_is_booted_next(box: Box, image: Path) -> None:
    before, was = info(box), identity(image)
    assert [entry["deed"] for entry in before["history"]] == ["built"]
    script = box.write("install.sh", INSTALL)
    done = vcluster(box, "--job", script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "$ qemu-img convert -f qcow2 ./c/run/0.overlay.qcow2 -O qcow2 ./.chslurm-commit." in done.stdout
    assert "Image committed.\n" in done.stdout
    assert "deleted ./c/run/0.overlay.qcow2\n" in done.stdout
    assert (box.folder / "c/out/0_job.out").read_text().startswith("0\n")
    commit = commit_of(box)
    assert (commit["old"]["inode"], commit["new"]["inode"]) == (was[0], identity(image)[0])
    after = info(box)
    assert [entry["deed"] for entry in after["history"]] == ["built", "committed"]
    assert after["history"][1]["source"]["inode"] == was[0]
    assert after["kernels"][0]["generation"] == before["kernels"][0]["generation"] + 1

    check_refused_when_changed_meanwhile(box, image)


def check_refused_when_changed_meanwhile(box: Box, image: Path) -> None:
    """The second boot: it has what the first one installed, but the image is touched while it runs."""
    (box.folder / "data").mkdir()
    os.chown(box.folder / "data", *(getattr(box.folder.stat(), name) for name in ("st_uid", "st_gid")))
    script = box.write("look.sh", LOOK)
    options = ("-n1", "--cores=1", "--ram=512M", "--commit=0", "--jobdir=c", "--dir=data", "--job", script)
    with box.start("vcluster", *options, "image.qcow2") as head:
        looked = box.folder / "data/looked"
        wait_for(looked.exists, 120, lambda: "the job did not start")
        os.utime(image)
        now = identity(image)
        (box.folder / "data/go").touch()
        output, _ = head.communicate(timeout=120)
    assert head.returncode == 70, output
    assert (box.folder / "c/out/0_job.out").read_text() == "installed\nchslurm.mark=1\n"
    assert "can't commit guest 0 to ./image.qcow2: " in output
    assert "not the file that was planned with" in output
    assert "kept: ./c/run/0.overlay.qcow2" in output
    assert (box.folder / "c/run/0.overlay.qcow2").exists()
    assert identity(image) == now
    summary = Job(box, "").summary()
    assert (summary["cause"], summary["commit"]["new"]) == ("commit", None)
    assert summary["guests"][0]["clean"]


@pytest.mark.long
def test_who_works_in_the_guest_shuts_it_down_and_has_it_committed(box: Box, image: Path) -> None:
    """As the tutorial tells: no job, a look around, `sudo shutdown -h now`."""
    was = identity(image)
    with box.start("vcluster", "-n1", "--cores=1", "--ram=512M", "--commit=0", "--jobdir=c", "image.qcow2") as head:
        Job(box, "").wait_event("guest_ready")
        work = "sudo sh -c 'echo mine > /etc/mark' && sudo shutdown -h now"
        done = box("chslurm", "ssh", "-c", "c", "0", "--", "sh", "-c", work)
        output, _ = head.communicate(timeout=120)
    assert head.returncode == 0, output + done.stderr
    assert "Image committed.\n" in output
    assert Job(box, "").summary()["cause"] == "shutdown"
    assert identity(image)[0] != was[0] == commit_of(box)["old"]["inode"]
    assert identity(image)[0] == commit_of(box)["new"]["inode"]
    assert not (box.folder / "c/run/0.overlay.qcow2").exists()


def test_a_killed_guest_is_not_committed(box: Box, image: Path) -> None:
    """As the tutorial tells who changes their mind: kill its QEMU."""
    was = identity(image)
    with box.start("vcluster", "-n1", "--cores=1", "--ram=512M", "--commit=0", "--jobdir=c", "image.qcow2") as head:
        started = Job(box, "").wait_event("guest_started")
        subprocess.run(["sleep", "2"], check=True)
        os.kill(int(started["status"]), signal.SIGTERM)
        output, _ = head.communicate(timeout=60)
    assert head.returncode == 70, output
    assert "can't commit guest 0 to ./image.qcow2: it did not shut down: QEMU was ended by a signal" in output
    assert identity(image) == was
    assert (box.folder / "c/run/0.overlay.qcow2").exists()
    refused = box("chslurm", "image", "commit", "c")
    assert (refused.returncode, "--force" in refused.stderr) == (64, True), refused.stderr
    assert identity(image) == was


def test_rights_are_needed_before_anything_is_started(box: Box) -> None:
    box("ln", "-s", box.image, "image.qcow2")
    done = vcluster(box)
    assert done.returncode == 64
    assert "--commit: image" in done.stderr
    assert "writable" in done.stderr
    assert not (box.folder / "c").exists()


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_an_installation_from_install_media(box: Box, image_format: str) -> None:
    media = box.folder / "tiny.iso"
    media.write_bytes(make_media())
    media.chmod(0o644)
    made = box("chslurm", "image", "create", "new.img", "--size=64M", f"--format={image_format}")
    assert made.returncode == 0, made.stderr
    done = box("oneguest", "--boot", "tiny.iso", "--cores=1", "--ram=256M", "new.img", timeout_s=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert INSTALLED.decode() in done.stdout, "its serial console is this terminal"
    raw = box("qemu-img", "convert", "-f", image_format, "-O", "raw", "new.img", "new.raw")
    assert raw.returncode == 0, raw.stderr
    assert (box.folder / "new.raw").read_bytes()[512:].startswith(INSTALLED)
    again = box("oneguest", "--boot", "tiny.iso", "new.img")
    assert (again.returncode, "it is not empty" in again.stderr) == (64, True)
