# SPDX-License-Identifier: Apache-2.0
"""The seam to SLURM: what it tells about our job, and how a step of it is started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chslurm.allocation import (
    Allocation,
    SlurmRecords,
    find_job_state,
    make_allocation,
    needs_records,
    render_nodelist,
)
from chslurm.errors import ChslurmError, ProcessError
from chslurm.host.process import run
from chslurm.host.slurmrecords import ask_config, ask_job, ask_nodes
from chslurm.plan import Host, Mode, Plan

_GLANCE_S = 8.0
"""How long `squeue` may take: what it adds is not worth a longer wait."""

_SQUEUE_FORMAT = "%A|%T|%L"
"""Job id, state in full, time left: the same words and forms in all releases, while JSON came and changed with them."""

_TIME_LEFT = re.compile(r"(?:([0-9]{1,6})-)?(?:([0-9]{1,6}):)?([0-9]{1,6}):([0-9]{1,2})", re.ASCII)

_KEPT = re.compile(
    r"SLURM_(CONF|JWT|STEPMGR|JOBID|JOB_\w+|ARRAY_\w+|SUBMIT_\w+|SPANK_\w+|CLUSTER_NAME|WORKING_CLUSTER|NODE_ALIASES)"
)
"""What srun needs to find the job and the manager of its steps. It reads options from many other variables, and sbatch
and salloc set some of them: `sbatch -n6` alone made a step of `--ntasks-per-node=1` start six tasks."""

_BENDING = re.compile(r"S(LURM|RUN)_\w+")

_OF_A_JOB = ("SLURM", "SRUN_", "SBATCH_", "SALLOC_")
_OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS")


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job of the user's fares."""

    state: str  # RUNNING, COMPLETING, SUSPENDED...
    left_s: float | None  # None without limit


def read_jobs() -> dict[str, JobState]:
    """Return the user's jobs by their ids; empty when there is no SLURM here, or it does not answer."""
    unset = (word for name in os.environ if name.startswith("SQUEUE_") for word in ("-u", name))
    argv = ["env", *unset, "squeue", "--noheader", f"--user={os.geteuid()}", f"--format={_SQUEUE_FORMAT}"]
    try:
        return parse_jobs(run(argv, timeout_s=_GLANCE_S).stdout)
    except ProcessError:
        return {}


def parse_jobs(text: str) -> dict[str, JobState]:
    """Return the jobs that `squeue` lists in our format; lines of another form are passed over."""
    rows = (line.strip().split("|") for line in text.splitlines())
    return {row[0]: JobState(row[1], _parse_time_left(row[2])) for row in rows if len(row) == 3 and row[0].isdecimal()}


def _parse_time_left(text: str) -> float | None:
    """Seconds of `1-02:03:04`, `2:03:04`, `3:04`; None for UNLIMITED, NOT_SET, INVALID."""
    found = _TIME_LEFT.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def read_allocation(environment: Mapping[str, str]) -> Allocation:
    """Return the allocation of the SLURM job we run in. Raises UsageError when it can't be understood."""
    nodes = environment.get("SLURM_JOB_NODELIST", "")
    unsaid = needs_records(environment)
    records = SlurmRecords(
        nodes=ask_nodes(nodes) if nodes and unsaid else "",
        job=ask_job(environment["SLURM_JOB_ID"]),
        config=ask_config(),
    )
    return make_allocation(environment, records)


def read_job_state(job_id: str) -> tuple[str, str]:
    """Return state and reason of a job as SLURM records them; two empty words when it does not say."""
    return find_job_state(ask_job(job_id), job_id)


def make_srun_argv(plan: Plan, task: Sequence[str], environment: Iterable[str] = os.environ) -> list[str]:
    """Return the command that runs `task` once on every host of the plan, in their order."""
    return make_step_argv([host.name for host in plan.hosts], plan.job_dir, task, environment)


def make_step_argv(
    names: Sequence[str], folder: str, task: Sequence[str], environment: Iterable[str] = os.environ
) -> list[str]:
    """Return the command that runs `task` once on each of these nodes, in `folder`, in one step of our job.

    The step may use all that the job has on each node, at the same time as other steps, and lives on when one of its
    tasks has ended. What in `environment`, which is ours, would bend the step is kept from srun.
    """
    unset = (word for name in find_bending_variables(environment) for word in ("-u", name))
    return [
        "env", *unset,
        "srun",
        # one task on each host, in the order that is given, which is that of the allocation
        f"--nodelist={render_nodelist(names)}",
        f"--nodes={len(names)}", f"--ntasks={len(names)}", "--ntasks-per-node=1", "--distribution=block",
        # all of the job's cores and memory, beside the batch script and other steps
        "--overlap", "--whole", "--cpu-bind=none", "--mem=0",
        # our own program and no MPI; a task that ends, well or badly, is the head's business
        "--mpi=none", "--kill-on-bad-exit=0", "--wait=0",
        # lines reach every task and come back at once
        "--input=all", "--unbuffered", "--quit-on-interrupt",
        "--job-name=chslurm", f"--chdir={folder}", "--export=ALL",
        *task,
    ]  # fmt: skip


def make_attach_argv(plan: Plan, host: Host, task: Sequence[str], environment: Iterable[str] = os.environ) -> list[str]:
    """Return the command that runs `task` on the node of one host, beside the cluster's own step, from anywhere.

    We may be on a login node, or in another job whose variables would bend ours: none of SLURM's reaches srun but
    where its controller is.
    """
    foreign = (name for name in sorted(environment) if name.startswith(_OF_A_JOB) and name not in _OF_THE_CLUSTER)
    unset = (word for name in foreign for word in ("-u", name))
    return [
        "env", *unset,
        "srun", f"--jobid={plan.slurm_job_id}", f"--nodelist={host.name}", "--nodes=1", "--ntasks=1",
        "--overlap", "--cpu-bind=none", "--mem=0", "--mpi=none",
        "--unbuffered", "--quiet", "--job-name=chslurm-attach", "--chdir=/", "--export=ALL",
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
