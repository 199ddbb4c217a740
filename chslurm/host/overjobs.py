# SPDX-License-Identifier: Apache-2.0
"""Which jobs that have something on this node are certainly over.

A job with a process of SLURM's here is not. Of the others, which may only not have begun a step yet, SLURM is asked; a
job counts as over only when SLURM says so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from chslurm.allocation import find_job_state, is_job_over
from chslurm.errors import ProcessError
from chslurm.host.process import run

_STEP = re.compile(rb"slurmstepd: \[([0-9]{1,10})\.")
_MOST_QUESTIONS = 4  # at each start of a job: the controller has others to answer


def find_over(job_ids: Iterable[int], timeout_s: float) -> Iterator[int]:
    """Return those of `job_ids` that are over, as far as that can be told in time."""
    until_s = time.monotonic() + timeout_s
    living = _find_living()
    for job_id in [job_id for job_id in job_ids if job_id not in living][:_MOST_QUESTIONS]:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            return
        with suppress(ProcessError):
            argv = ["scontrol", "-o", "show", "job", str(job_id)]
            told = run(argv, timeout_s=left_s, check=False, die_with_parent=True)
            state, _ = find_job_state(told.stdout + told.stderr, str(job_id))
            if is_job_over(state) and state != "COMPLETING":  # its own epilog is about to run, or running
                yield job_id


def _find_living() -> set[int]:
    """The jobs that have a step here. slurmstepd gives itself a title with the numbers of job and step."""
    living = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if found := _STEP.match((process / "cmdline").read_bytes()):
                living.add(int(found[1]))
    return living
