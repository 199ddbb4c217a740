# SPDX-License-Identifier: Apache-2.0
"""Names in the job directory, and which of them are the tool's own."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from chslurm.jobdir import (
    JobDir,
    find_guest_of_output,
    is_part,
    is_run_file,
    is_run_folder,
    name_first_part,
    name_part_before,
)

JOB_DIR = JobDir(PurePath("/j"))


def test_the_names_users_know() -> None:
    names = [
        JOB_DIR.console(0),
        JOB_DIR.job_output(1),
        JOB_DIR.job_errors(1),
        JOB_DIR.overlay(2),
        JOB_DIR.temporary_disk(3),
    ]
    assert [str(name.relative_to("/j")) for name in names] == [
        "out/0_console.out",
        "out/1_job.out",
        "out/1_job.err",
        "run/2.overlay.qcow2",
        "run/3.tmp.qcow2",
    ]


def test_every_output_name_is_known_to_be_ours() -> None:
    for guest in (0, 7, 9999):
        for path in (
            JOB_DIR.console(guest),
            JOB_DIR.job_output(guest),
            JOB_DIR.job_errors(guest),
            JOB_DIR.guest_log(guest),
        ):
            assert find_guest_of_output(path.name) == guest
            assert not is_part(path.name)
        for log in (JOB_DIR.console(guest), JOB_DIR.guest_log(guest)):
            for part in (name_first_part(log), name_part_before(log)):
                assert find_guest_of_output(part.name) == guest
                assert is_part(part.name)
    assert find_guest_of_output(JOB_DIR.step_log.name) == 0
    assert find_guest_of_output("net_3_pasta.out") == 0


def test_every_name_in_run_is_known_to_be_ours() -> None:
    ours = (
        JOB_DIR.plan,
        JOB_DIR.peers,
        JOB_DIR.events,
        JOB_DIR.summary,
        JOB_DIR.overlay(0),
        JOB_DIR.temporary_disk(12),
    )
    assert all(is_run_file(path.name) for path in ours)
    assert not is_run_file(JOB_DIR.lock.name)
    folders = (JOB_DIR.keys("0123456789abcdef"), JOB_DIR.opt("0123456789abcdef"))
    assert all(is_run_folder(path.name) for path in folders)
    assert not is_run_folder("keys.mine")


@pytest.mark.parametrize(
    "name", ["results.out", "0_job.out.bak", "x0_job.out", "0_job.out\n", "1_mine.out", "٣_job.out"]
)
def test_users_own_files_are_not_ours(name: str) -> None:
    assert find_guest_of_output(name) is None
    assert not is_run_file(name)
