# SPDX-License-Identifier: Apache-2.0
"""SLURM's programs, tried: what is there, what answers, whether a step runs beside others."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping

from chslurm.allocation import is_allocation
from chslurm.diagnosis import Tried
from chslurm.errors import ChslurmError, ProcessError
from chslurm.host import slurm
from chslurm.host.process import run
from chslurm.host.slurmrecords import import_pyslurm
from chslurm.slurmdiagnosis import SlurmFacts

_ANSWER_S = 5.0
_STEP_S = 15.0
"""A step waits for a busy controller and for all daemons between."""

_MPI_TYPE = re.compile(r"^\s+(\w+)$|\b(pmix_v\d+)\b", re.MULTILINE)


def try_slurm(environment: Mapping[str, str], *, step: bool) -> SlurmFacts:
    """Ask SLURM's programs; with `step` start one in our job, if we are in one."""
    in_job = is_allocation(environment)
    job = trouble = None
    if in_job:
        try:
            job = slurm.read_allocation(environment)
        except ChslurmError as error:
            trouble = Tried(trouble=error.message, hint=error.hint)
    if shutil.which("srun") is None:
        return SlurmFacts(job=job, job_trouble=trouble)
    return SlurmFacts(
        version=_ask("srun", "--version"),
        ping=_ask("scontrol", "ping"),
        job=job,
        job_trouble=trouble,
        step=_try_step(job.nodes[0].name, environment) if job and step else None,
        text=not _ask("scontrol", "-o", "show", "config").trouble,
        json=not _ask("scontrol", "--json", "show", "job", environment.get("SLURM_JOB_ID", "0")).trouble,
        pyslurm=_try_pyslurm(),
        mpi=_list_mpi(),
    )


def _try_step(node: str, environment: Mapping[str, str]) -> Tried:
    try:
        done = run(slurm.make_step_argv([node], "/", ["true"], environment), timeout_s=_STEP_S, check=False)
    except ProcessError as error:
        return Tried(trouble=error.message)
    if done.status:
        return Tried(trouble=_first_line(done.stderr) or f"srun --overlap ended with {done.status}")
    return Tried("srun --overlap runs beside this one")


def _ask(*argv: str) -> Tried:
    try:
        done = run(argv, timeout_s=_ANSWER_S, check=False)
    except ProcessError as error:
        return Tried(trouble=error.message)
    line = _first_line(done.stdout if done.status == 0 else done.stderr)
    down = done.status != 0 or (argv[1:] == ("ping",) and " is DOWN" in line)
    return Tried(trouble=line or f"{argv[0]} ended with {done.status}") if down else Tried(line)


def _try_pyslurm() -> Tried:
    module, words = import_pyslurm()
    return Tried(trouble=words) if module is None else Tried(f"pyslurm is {words}")


def _list_mpi() -> list[str]:
    """The kinds that `srun --mpi=list` names; where it says that depends on the release."""
    try:
        done = run(["srun", "--mpi=list"], timeout_s=_ANSWER_S, check=False)
    except ProcessError:
        return []
    words = [first or second for first, second in _MPI_TYPE.findall(done.stdout + done.stderr)]
    return [word for word in dict.fromkeys(words) if word != "none"]


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
