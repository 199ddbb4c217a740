# SPDX-License-Identifier: Apache-2.0
"""Which variables of the user's environment reach the guests: the identity of the SLURM job, and proxies.

A proxy's address may hold a password. Such a one never stands in the plan or in `meta/`; each host takes it from its
own environment and gives it to its guests over their control ports.
"""

from __future__ import annotations

from collections.abc import Mapping

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")

_JOB_IDENTITY = (
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_USER",
    "SLURM_JOB_ACCOUNT",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_QOS",
    "SLURM_JOB_RESERVATION",
    "SLURM_JOB_COMMENT",
    "SLURM_JOB_START_TIME",
    "SLURM_JOB_END_TIME",
    "SLURM_JOB_UID",
    "SLURM_RESTART_COUNT",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_COUNT",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_ARRAY_TASK_STEP",
    "SLURM_CLUSTER_NAME",
)
"""Who the job is, not where: given SLURM_JOBID or a list of nodes, an MPI in the guest would look for SLURM there."""


def find_job_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the identity of the SLURM job and the proxies without a password."""
    identity = {name: _clean(environment[name]) for name in _JOB_IDENTITY if environment.get(name)}
    return identity | find_proxies(environment)


def find_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies without a password."""
    return {name: value for name, value in _proxies(environment).items() if not has_password(value)}


def find_secret_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies with a password."""
    return {name: value for name, value in _proxies(environment).items() if has_password(value)}


def render_exports(variables: Mapping[str, str]) -> str:
    """Return `export NAME='value'` lines, for any value, for a POSIX shell."""
    return "".join(f"export {name}={quote_shell(value)}\n" for name, value in variables.items())


def quote_shell(value: str) -> str:
    """Return `value` in single quotes."""
    return "'" + value.replace("'", "'\\''") + "'"


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    names = (*_PROXIES, *(name.upper() for name in _PROXIES))
    return {name: _clean(environment[name]) for name in names if environment.get(name)}


def has_password(value: str) -> bool:
    """Say whether the address of a proxy holds one."""
    return "@" in value


def _clean(value: str) -> str:
    """What is not UTF-8 can't be written down in a plan."""
    return value.encode(errors="replace").decode()
