# SPDX-License-Identifier: Apache-2.0
"""The doctor on nodes of a real SLURM job, and a launch that fails there. No guest boots."""

from __future__ import annotations

import json
import re

import pytest
from realbox import Box

pytestmark = pytest.mark.real


def test_nodes_of_a_job_are_well(box: Box) -> None:
    done = box("salloc", "-Q", "-N2", "chslurm", "doctor", "--nodes", "--json", box.image)
    rows = {row["topic"]: row for row in json.loads(done.stdout) if row["topic"] != "clock"}
    assert [row for row in rows.values() if row["verdict"] == "failed"] == []
    assert done.returncode == 0, done.stderr
    assert rows["QEMU"]["found"].endswith(" runs a guest, sandboxed")
    assert rows["tunnel: VXLAN"]["verdict"] == rows["SLURM"]["verdict"] == "ok"
    assert re.search(r": kernel \S+ from its bundle$", rows["image"]["found"])
    assert {rows[topic]["nodes"] for topic in ("QEMU", "image", "TAP devices")} == {""}


def test_a_launch_that_fails_on_its_nodes_ends_with_their_rows(box: Box) -> None:
    done = box("salloc", "-Q", "--nodelist=cn[001-002]", "chrun", "--job=/bin/true", "--tmp-dir=/nowhere", box.image)
    assert done.returncode == 70
    lines = [line[21:] for line in done.stdout.splitlines()]
    remedy = "mkdir -p /nowhere where guests run, or name another folder: --tmp-dir"
    row = f"temporary disks: /nowhere: No such file or directory; {remedy}"
    assert lines[-1] in {f"doctor: {nodes}: {row}" for nodes in ("cn001", "cn002", "cn[001-002]")}
    lines = [line for line in lines if not line.startswith("report: ")]
    assert re.fullmatch(r"cluster ended after [\d.]+ s: machinery, exit status 70", lines[-2])
    assert "No such file or directory: '/nowhere/" in lines[-3]
