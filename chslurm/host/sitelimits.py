# SPDX-License-Identifier: Apache-2.0
"""Limits of the site that take a look at this machine: where we are, and where files really lie."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import PurePath

from chslurm.kinds import Mode
from chslurm.limits import Limits, check_machine, check_place


def check_here(limits: Limits, mode: Mode) -> None:
    """Raise UsageError when guests of this mode may not run on this machine.

    Inside a SLURM job they may: slurmd says so on its nodes by SLURMD_NODENAME, which a shell that salloc has started
    on a login node has not.
    """
    inside = os.environ.get("SLURM_JOB_ID") and os.environ.get("SLURMD_NODENAME")
    if mode is Mode.WORKSTATION and not inside:
        check_machine(limits, socket.gethostname())


def check_images(limits: Limits, paths: Iterable[str | PurePath], what: str = "image") -> None:
    """Raise UsageError when one of the files lies in no folder that the site allows, links on either side resolved."""
    folders = [PurePath(os.path.realpath(folder)) for folder in limits.image_folders or ()]
    for path in paths:
        check_place(limits, what, PurePath(os.path.realpath(path)), folders)
