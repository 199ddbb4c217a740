# SPDX-License-Identifier: Apache-2.0
"""What srun says about tasks, and what the head makes of it."""

from __future__ import annotations

import pytest

from chslurm.host.step import read_srun
from chslurm.messages import EventKind

NUMBERS = {"cn001": 1, "cn002": 2, "cn003": 3}


@pytest.mark.parametrize(
    ("line", "hosts"),
    [
        ("srun: error: cn002: task 1: Killed", [2]),
        ("srun: error: cn[002-003]: tasks 1-2: Killed", [2, 3]),
        ("srun: error: cn[001,003]: tasks 0,2: Exited with exit code 70", [1, 3]),
        ("srun: error: Node failure on cn003", [3]),
        ("srun: error: Node failure on other", []),
        ("srun: error: cn002: task x: Killed", []),
        ("srun: Job step aborted: Waiting up to 32 seconds for job step to finish.", []),
        ("srun: error: cn002: task 0-99999999999: Killed", list(range(1, 65538))),
        ("", []),
    ],
)
def test_lost_hosts_are_read_from_sruns_words(line: str, hosts: list[int]) -> None:
    events = read_srun(line, NUMBERS)
    assert [event.host for event in events] == hosts
    assert all(event.kind is EventKind.NODE_LOST for event in events)
