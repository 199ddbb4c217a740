# SPDX-License-Identifier: Apache-2.0
"""The story of `chslurm image check`: boot an image as a cluster of one guest, whose job looks at it from inside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from chslurm.cluster import run_cluster
from chslurm.host.configfiles import settle_request
from chslurm.host.files import find_data
from chslurm.jobdir import JobDir
from chslurm.request import NOTHING_ASKED, RawOptions

CHECK_SCRIPT = "image-check.sh"
"""In the folder `guest`: prints a line for each part of the contract and ends with 1 when one is not kept."""


def check_image(image: str, cwd: PurePath, say: Callable[[str], None], *, boot_timeout: str | None = None) -> bool:
    """Say line by line whether an image keeps the contract with guests, and return whether it does.

    Takes one boot, always as on a workstation. Raises UsageError for what is no image.
    """
    with tempfile.TemporaryDirectory(prefix="chslurm-check-") as folder:
        options: RawOptions = {
            **NOTHING_ASKED,
            "image": image,
            "guests": "1",
            "cores": "1",
            "ram": "1G",
            "job": str(find_data("guest") / CHECK_SCRIPT),
            "jobdir": f"{folder}/check",
            "boot_timeout": boot_timeout,
            "no_report": True,
        }
        status = run_cluster(settle_request(options, cwd, os.environ, workstation=True), _Quiet(say), environment={})
        job_dir = JobDir(Path(folder, "check"))
        for line in _read(job_dir.job_output(0)) + _read(job_dir.job_errors(0)):
            say(line)
        if status not in (0, 1):
            say("FAILED  the image does not boot as a guest; its console ends with:")
            for line in _read(job_dir.console(0))[-10:]:
                say(f"    {line}")
    return status == 0


def _read(path: PurePath) -> list[str]:
    """Lines of a file that a guest wrote, fit for a terminal."""
    text = Path(path).read_text(errors="replace") if Path(path).exists() else ""
    return ["".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines()]


class _Quiet:
    """Of the launcher's progress only that it goes on."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def note(self, text: str) -> None:
        """Say a single line; the plan, which is several, is not asked for."""
        if "\n" not in text:
            self._say(text)

    def update(self, states: Mapping[str, int], ready: int, total: int) -> None:
        """Say nothing."""

    def pause(self, paused: bool) -> None:
        """Nothing is shown that could be paused."""
