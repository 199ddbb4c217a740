# SPDX-License-Identifier: Apache-2.0
"""The seam to SLURM: what it tells about our job, and how a step of it is started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from chslurm.allocation import Allocation, SlurmRecords, make_allocation, needs_records, render_nodelist
from chslurm.errors import ChslurmError, ProcessError
from chslurm.host.process import run
from chslurm.plan import Host, Mode, Plan

_ANSWER_S = 20.0
"""How long `scontrol` may take; a busy controller answers within 10 s, its own MessageTimeout."""

_KEPT = re.compile(
    r"SLURM_(CONF|JWT|STEPMGR|JOBID|JOB_\w+|ARRAY_\w+|SUBMIT_\w+|SPANK_\w+|CLUSTER_NAME|WORKING_CLUSTER|NODE_ALIASES)"
)
"""What srun needs to find the job and the manager of its steps. It reads options from many other variables, and sbatch
and salloc set some of them: `sbatch -n6` alone made a step of `--ntasks-per-node=1` start six tasks."""

_BENDING = re.compile(r"S(LURM|RUN)_\w+")


def read_allocation(environment: Mapping[str, str]) -> Allocation:
    """Return the allocation of the SLURM job we run in. Raises UsageError when it can't be understood."""
    nodes = environment.get("SLURM_JOB_NODELIST", "")
    unsaid = needs_records(environment)
    ends = environment.get("SLURM_JOB_END_TIME")
    records = SlurmRecords(
        nodes=_ask("-o", "show", "node", nodes) if nodes and unsaid else "",
        job=_ask("-o", "show", "job", environment["SLURM_JOB_ID"]) if unsaid or not ends else "",
        config=_ask("show", "config"),
    )
    return make_allocation(environment, records)


def make_srun_argv(plan: Plan, task: Sequence[str], environment: Iterable[str] = os.environ) -> list[str]:
    """Return the command that runs `task` once on every host of the plan, in their order, in one step of our job.

    The step may use all that the job has on each node, at the same time as other steps, and lives on when one of its
    tasks has ended. What in `environment`, which is ours, would bend the step is kept from srun.
    """
    unset = (word for name in find_bending_variables(environment) for word in ("-u", name))
    return [
        "env", *unset,
        "srun",
        # one task on each host, in the order of the plan, which is that of the allocation
        f"--nodelist={render_nodelist([host.name for host in plan.hosts])}",
        f"--nodes={len(plan.hosts)}", f"--ntasks={len(plan.hosts)}", "--ntasks-per-node=1", "--distribution=block",
        # all of the job's cores and memory, beside the batch script and other steps
        "--overlap", "--whole", "--cpu-bind=none", "--mem=0",
        # our own program and no MPI; a task that ends, well or badly, is the head's business
        "--mpi=none", "--kill-on-bad-exit=0", "--wait=0",
        # lines reach every task and come back at once
        "--input=all", "--unbuffered", "--quit-on-interrupt",
        "--job-name=chslurm", f"--chdir={plan.job_dir}", "--export=ALL",
        *task,
    ]  # fmt: skip


def find_bending_variables(names: Iterable[str]) -> list[str]:
    """Return those of the environment's variables from which srun could take another layout than ours."""
    return sorted(name for name in names if _BENDING.fullmatch(name) and not _KEPT.fullmatch(name))


def check_place(plan: Plan, host: Host, environment: Mapping[str, str]) -> None:
    """Raise ChslurmError when SLURM has started the task of `host` on another node: sizes and names would be wrong."""
    here = environment.get("SLURMD_NODENAME", host.name)
    if plan.mode is Mode.CLUSTER and here != host.name and here.partition(".")[0] != host.name.partition(".")[0]:
        raise ChslurmError(
            f"SLURM has started the task of host {host.number} on node {here}; the plan has {host.name} for it",
            hint="tell the site: its SLURM orders the tasks of a step otherwise than the nodes of the job",
        )


def _ask(*words: str) -> str:
    """Return what scontrol says, or nothing: what then is missing is refused or guessed by who needs it."""
    try:
        return run(["scontrol", *words], timeout_s=_ANSWER_S, env={"SLURM_TIME_FORMAT": "standard"}).stdout
    except ProcessError:
        return ""
