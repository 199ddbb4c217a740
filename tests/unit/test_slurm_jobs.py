# SPDX-License-Identifier: Apache-2.0
"""What squeue tells of the user's jobs; the answers are those of a real SLURM 22.05."""

from __future__ import annotations

import pytest

from chslurm.host.slurm import JobState, parse_jobs

ANSWER = """\
6|PENDING|UNLIMITED
7|PENDING|2-03:05:00
5|PENDING|1:00:00
8|RUNNING|5:00
4|RUNNING|9:42
"""
"""Jobs: waiting without limit, an array of three, held, and two that run."""


def test_recorded_answers() -> None:
    assert parse_jobs(ANSWER) == {
        "6": JobState("PENDING", None), "7": JobState("PENDING", 183900), "5": JobState("PENDING", 3600),
        "8": JobState("RUNNING", 300), "4": JobState("RUNNING", 582),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "left_s"),
    [
        ("0:00", 0), ("9:59", 599), ("10:00:01", 36001), ("1-00:00:00", 86400), ("365-01:02:03", 31539723),
        ("UNLIMITED", None), ("INVALID", None), ("NOT_SET", None), ("", None), ("1:2:3:4", None), ("٣:00", None),
    ],
)  # fmt: skip
def test_time_left(text: str, left_s: float | None) -> None:
    assert parse_jobs(f"7|RUNNING|{text}\n") == {"7": JobState("RUNNING", left_s)}


def test_other_lines_are_passed_over() -> None:
    assert parse_jobs("CLUSTER: east\nslurm_load_jobs error\n|\n42_[1-3]|PENDING|1:00\n\n") == {}
