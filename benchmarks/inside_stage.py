# SPDX-License-Identifier: Apache-2.0
"""Runs in the box: plan and stage a cluster in an allocation that exists only in the environment.

Arguments: IMAGE JOBDIR NODES GUESTS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

from chslurm.cli.chrun import chrun
from chslurm.host.place import prepare_plan
from chslurm.host.staging import start_job_dir
from chslurm.planner import render_plan
from chslurm.request import RawOptions, make_request

image, job_dir, nodes, guests = sys.argv[1:]
os.environ |= {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NODELIST": f"cn[{1:05}-{int(nodes):05}]",
    "SLURM_JOB_NUM_NODES": nodes,
    "SLURM_JOB_CPUS_PER_NODE": f"128(x{nodes})",
    "SLURM_MEM_PER_NODE": "262144",
    "SLURM_JOB_END_TIME": "4102444800",
}
words = ["-n", guests, "--job", "job.sh", "--jobdir", job_dir, image]
options = cast(RawOptions, chrun.make_context("chrun", words).params)
request = make_request(options, Path.cwd())
with start_job_dir(prepare_plan(request), reuse=True) as plan:
    assert len(plan.guests) == int(guests)
    print(render_plan(plan))
