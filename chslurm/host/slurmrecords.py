# SPDX-License-Identifier: Apache-2.0
"""SLURM's records of jobs and nodes, whoever gives them, as the lines of `scontrol -o`.

Plain text first: its words are the same in all releases from 22.05 to 26.05, while JSON came and changed with them.
JSON is asked for where the text has none of our words, pyslurm where there is no scontrol. A controller that does not
answer one of them does not answer the others, which are not tried then.
"""

from __future__ import annotations

import shutil
from typing import Any

from chslurm.allocation import UNKNOWN_JOB
from chslurm.errors import ProcessError
from chslurm.host.process import run
from chslurm.slurmjson import find_release, render_job, render_json_jobs, render_json_nodes, render_node

_ANSWER_S = 20.0
"""How long `scontrol` may take; a busy controller answers within 10 s, its own MessageTimeout."""

_PYSLURM_JOB = {
    "job_id": "id",
    "job_state": "state",
    "state_reason": "state_reason",
    "end_time": "end_time",
    "memory_per_node": "memory_per_node",
    "memory_per_cpu": "memory_per_cpu",
    "array_job_id": "array_id",
    "array_task_id": "array_task_id",
}
_PYSLURM_NODE = {
    "name": "name",
    "cpus": "total_cpus",
    "real_memory": "real_memory",
    "specialized_memory": "specialized_memory",
}
"""Field of SLURM's JSON -> attribute of pyslurm's objects, from 23.2 on."""


def ask_job(job_id: str) -> str:
    """Return the record of a job, of an array's first task those of all; nothing when nobody says."""
    text = _ask("-o", "show", "job", job_id)
    if text is None:
        module, _ = import_pyslurm()
        return _ask_pyslurm(lambda: render_job(_read(module.Job.load(int(job_id)), _PYSLURM_JOB))) if module else ""
    if text and "JobId=" not in text and UNKNOWN_JOB not in text:
        return render_json_jobs(_ask("--json", "show", "job", job_id) or "")
    return text


def ask_nodes(nodelist: str) -> str:
    """Return the records of nodes, a line each; nothing when nobody says."""
    text = _ask("-o", "show", "node", nodelist)
    if text is None:
        module, _ = import_pyslurm()
        if module is None:
            return ""
        from chslurm.allocation import parse_nodelist

        names = parse_nodelist(nodelist, "SLURM_JOB_NODELIST")
        return _ask_pyslurm(
            lambda: "".join(render_node(_read(module.Node.load(name), _PYSLURM_NODE)) for name in names)
        )
    if text and "NodeName=" not in text:
        return render_json_nodes(_ask("--json", "show", "node", nodelist) or "")
    return text


def ask_config() -> str:
    """Return the controller's settings; nothing when nobody says."""
    return _ask("show", "config") or ""


def import_pyslurm() -> tuple[Any, str]:
    """Return pyslurm and its release, or None and why it can't be used: it has to fit the SLURM that runs."""
    try:
        import pyslurm
    except Exception as error:  # also a library of SLURM's that it was not built against
        return None, "not installed" if isinstance(error, ModuleNotFoundError) else f"can't be imported: {error}"
    own = find_release([str(getattr(pyslurm, "__version__", ""))])
    running = find_release([_ask_version()])
    if own is None or not hasattr(pyslurm, "Job") or not hasattr(pyslurm, "Node"):
        return None, "of a release that is not known"
    if running is not None and own != running:
        return None, f"it is for SLURM {_name(own)}, here is {_name(running)}"
    return pyslurm, f"for SLURM {_name(own)}"


def _ask(*words: str) -> str | None:
    """Return what scontrol says, nothing when it fails, None when there is none.

    What then is missing is refused or guessed by who needs it.
    """
    if shutil.which("scontrol") is None:
        return None
    try:
        done = run(["scontrol", *words], timeout_s=_ANSWER_S, check=False, env={"SLURM_TIME_FORMAT": "standard"})
    except ProcessError:
        return ""
    return done.stdout if done.status == 0 else done.stderr if UNKNOWN_JOB in done.stderr else ""


def _ask_version() -> str:
    try:
        return run(["srun", "--version"], timeout_s=5.0, check=False).stdout
    except ProcessError:
        return ""


def _ask_pyslurm(answer: Any) -> str:
    """A library that is not ours, on a site's daemon: whatever it raises is no answer."""
    try:
        return str(answer())
    except Exception:
        return ""


def _read(record: Any, names: dict[str, str]) -> dict[str, Any]:
    return {field: getattr(record, name, None) for field, name in names.items()}


def _name(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]:02}"
