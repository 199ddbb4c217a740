# SPDX-License-Identifier: Apache-2.0
"""The history in an image: read by who can read the image, also while guests run from it; written by its maker."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

from chslurm.bundle import has_boot_bundle
from chslurm.history import HISTORY_AT, HISTORY_BYTES, Entry, parse_history, render_history
from chslurm.host.bundle import make_region, read_head, read_region
from chslurm.host.process import run


def find_doer() -> str:
    """Return who does something to an image, for its history: the user and this host."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid {os.getuid()}"
    return f"{user} on {socket.gethostname()}"


def read_history(disk: Path, disk_format: str) -> tuple[Entry, ...] | None:
    """Return the history that an image carries, None when it has no boot bundle. Raises ChslurmError."""
    if not has_boot_bundle(bytes(read_head(disk, disk_format))):
        return None
    return parse_history(bytes(read_region(disk, disk_format, HISTORY_AT, HISTORY_BYTES)))


def add_to_history(disk: Path, disk_format: str, entry: Entry) -> bool:
    """Add an entry to the history of an image that nobody uses; say whether it carries one.

    Raises ChslurmError when the image can't be read or written.
    """
    entries = read_history(disk, disk_format)
    if entries is None:
        return False
    text = render_history((*entries, entry))
    fd = os.memfd_create("chslurm-history", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(text)
        source = f"driver=raw,file.driver=file,file.filename=/proc/self/fd/{fd}"
        target = make_region(disk, disk_format, HISTORY_AT, len(text))
        # -n: into a disk that is there; -S 0: what is zero is written, too, over an older and longer text
        argv = ["qemu-img", "convert", "-n", "-S", "0", "--image-opts", "--target-image-opts", source, target]
        run(argv, pass_fds=[fd], die_with_parent=True)
    finally:
        os.close(fd)
    return True
