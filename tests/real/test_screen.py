# SPDX-License-Identifier: Apache-2.0
"""A screen for each guest (--vga): a window of QEMU with a login, under the same confinement as without."""

from __future__ import annotations

import os
import pwd
import re
import struct
from pathlib import Path

import pytest
from realbox import Box, wait_for

pytestmark = pytest.mark.real

SCREEN = """#!/bin/bash
wait_for() { for _ in $(seq 60); do "$@" && return; sleep 1; done; }
wait_for sudo grep -aq login: /dev/vcs1
sudo cat /dev/vcs1
touch /ch/data1/shown
wait_for test -e /ch/data1/seen
"""


def read_picture(path: Path) -> list[bytes]:
    """Return the pixels, four bytes each, line by line, of what Xvfb -fbdir keeps: a picture in XWD's format."""
    data = path.read_bytes()
    words = struct.unpack(">25I", data[:100])
    header_bytes, height, bits, line_bytes, colors = words[0], words[5], words[11], words[12], words[19]
    assert bits == 32
    start = header_bytes + colors * 12
    return [data[start + line * line_bytes : start + (line + 1) * line_bytes] for line in range(height)]


def count_text(picture: list[bytes]) -> int:
    """Count pixels as grey as the kernel's console draws letters."""
    return sum(line[i : i + 3] == b"\xaa\xaa\xaa" for line in picture for i in range(0, len(line), 4))


def test_a_window_shows_the_screen_of_a_guest_with_a_login(box: Box) -> None:
    data = box.folder / "data"
    data.mkdir()
    script = box.write("job.sh", SCREEN)
    x_server = ["Xvfb", ":77", "-screen", "0", "1024x768x24", "-fbdir", str(data)]
    x_server += ["-nolisten", "tcp", "-nolisten", "unix"]  # only the node's own abstract socket: nothing in /tmp
    picture = data / "Xvfb_screen0"
    command = ["vcluster", "-n1", "--vga", "--ram=512M", "--jobdir=c", "--dir=data", f"--job={script}", box.image]
    os.chown(data, *pwd.getpwnam(box.user)[2:4])
    with box.start(*x_server) as server:
        try:
            wait_for(picture.exists, 20, lambda: "no X server")
            with box.start("env", "DISPLAY=:77", *command) as head:
                job = box.folder / "c"
                try:
                    wait_for((data / "shown").exists, 150, lambda: "the guest shows no login")
                    wait_for(lambda: count_text(read_picture(picture)) > 500, 10, lambda: "the window shows no text")
                    (qemu,) = re.findall(r'"guest_started".*"status":(\d+)', (job / "run/events.jsonl").read_text())
                    status = Path(f"/proc/{qemu}/status").read_text()
                    argv = Path(f"/proc/{qemu}/cmdline").read_text()
                finally:
                    (data / "seen").touch()
                    said, _ = head.communicate(timeout=120)
        finally:
            server.terminate()
    assert head.returncode == 0, said
    assert "Seccomp:\t2" in status
    assert "spawn=deny" in argv
    text = (job / "out/0_job.out").read_text()
    assert "chgu0 login:" in text, text
    assert "running 99-runjob.sh" in (job / "out/0_console.out").read_text()
