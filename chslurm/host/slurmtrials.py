# SPDX-License-Identifier: Apache-2.0
"""SLURM's programs, tried: what is there, what answers, whether a step runs beside others."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping

from chslurm.allocation import Allocation, is_allocation, parse_nodelist
from chslurm.diagnosis import Tried
from chslurm.errors import ChslurmError, ProcessError
from chslurm.host import slurm
from chslurm.host.process import run
from chslurm.host.slurmrecords import import_pyslurm
from chslurm.slurmdiagnosis import SlurmFacts

_ANSWERS_S = 8.0
"""For all that is asked of a controller together: who waits longer is not waited for."""

_PING_S = 3.0
_STEP_S = 8.0
"""A step waits for a busy controller and for all daemons between."""

_MPI_TYPE = re.compile(r"^\s+(\w+)$|\b(pmix_v\d+)\b", re.MULTILINE)


def try_slurm(environment: Mapping[str, str]) -> SlurmFacts:
    """Ask SLURM's programs. A controller that has had its time is not asked again."""
    if shutil.which("srun") is None:
        return SlurmFacts()
    until_s = time.monotonic() + _ANSWERS_S
    version, mpi = _ask("srun", "--version"), _list_mpi()
    ping = _ask("scontrol", "ping")
    pyslurm = _try_pyslurm() if not version.trouble else None

    def answers(*words: str) -> bool:
        left_s = until_s - time.monotonic()
        return left_s > 0 and not _ask("scontrol", *words, timeout_s=left_s).trouble

    return SlurmFacts(
        version=version,
        ping=ping,
        text=answers("-o", "show", "config"),
        json=answers("--json", "show", "job", environment.get("SLURM_JOB_ID", "0")),
        pyslurm=pyslurm,
        mpi=mpi,
    )


def try_job(environment: Mapping[str, str]) -> Allocation | Tried | None:
    """Return our job, or why it can't be understood; None outside of one."""
    if not is_allocation(environment):
        return None
    try:
        return slurm.read_allocation(environment)
    except ChslurmError as error:
        return Tried(trouble=error.message, hint=error.hint)


def try_step(environment: Mapping[str, str]) -> Tried | None:
    """Start a step in our job, on its first node; None where there is no job, or no srun."""
    if not is_allocation(environment) or shutil.which("srun") is None:
        return None
    try:
        node = parse_nodelist(environment.get("SLURM_JOB_NODELIST", ""), "SLURM_JOB_NODELIST")[0]
    except ChslurmError:  # told by the row of the job
        return None
    try:
        done = run(slurm.make_step_argv([node], "/", ["true"], environment), timeout_s=_STEP_S, check=False)
    except ProcessError as error:
        return Tried(trouble=error.message)
    if done.status:
        return Tried(trouble=_first_error(done.stderr) or f"srun --overlap ended with {done.status}")
    return Tried("srun --overlap runs beside this one")


def _ask(*argv: str, timeout_s: float = _PING_S) -> Tried:
    try:
        done = run(argv, timeout_s=timeout_s, check=False)
    except ProcessError as error:
        return Tried(trouble=error.message)
    line = _first_line(done.stdout) if done.status == 0 else _first_error(done.stderr)
    down = done.status != 0 or (argv[1:] == ("ping",) and " is DOWN" in line)
    return Tried(trouble=line or f"{argv[0]} ended with {done.status}") if down else Tried(line)


def _try_pyslurm() -> Tried:
    module, words = import_pyslurm()
    return Tried(trouble=words) if module is None else Tried(f"pyslurm is {words}")


def _list_mpi() -> list[str]:
    """The kinds that `srun --mpi=list` names; where it says that depends on the release."""
    try:
        done = run(["srun", "--mpi=list"], timeout_s=_PING_S, check=False)
    except ProcessError:
        return []
    words = [first or second for first, second in _MPI_TYPE.findall(done.stdout + done.stderr)]
    return [word for word in dict.fromkeys(words) if word != "none"]


def _first_error(text: str) -> str:
    """What went wrong, as a program of SLURM says it; remarks of its plugins may stand before."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if re.match(r"\w+: (error|fatal): ", line)), _first_line(text))


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
