# SPDX-License-Identifier: Apache-2.0
"""What SLURM tells as JSON, or pyslurm as objects, in the words of `scontrol -o`, which `allocation` reads: our fields.

Its forms changed with the releases. A number may be one, or {set, infinite, number}; a state a word, or a list of a
state and its flags. `scontrol --json` came with 23.02. Whatever is not there, or of no form we know, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from chslurm.units import LATEST_UNIX_S

_NO_VALUES = (0xFFFE, 0xFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFE, 0xFFFFFFFFFFFFFFFF)
"""NO_VAL and INFINITE of slurm.h, which old forms print as they are."""


class _Document(msgspec.Struct):
    """Of all that is printed: lists of records."""

    jobs: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []


def render_json_jobs(text: str) -> str:
    """Return the jobs of `scontrol show job --json` (or squeue's), a line each; empty for what is no such document."""
    return "".join(map(render_job, _decode(text).jobs))


def render_json_nodes(text: str) -> str:
    """Return the nodes of `scontrol show node --json`, a line each."""
    return "".join(map(render_node, _decode(text).nodes))


def render_job(job: Mapping[str, Any]) -> str:
    """Return one job as a line."""
    end_s = find_number(job.get("end_time"))
    known_end = end_s is not None and 0 < end_s < LATEST_UNIX_S
    per_node, per_cpu = (find_number(job.get(f"memory_per_{what}")) for what in ("node", "cpu"))
    return _render(
        JobId=find_number(job.get("job_id")),
        ArrayJobId=find_number(job.get("array_job_id")) or None,
        ArrayTaskId=find_number(job.get("array_task_id")),
        HetJobId=find_number(job.get("het_job_id")) or None,
        JobState=_find_state(job.get("job_state")),
        Reason=_find_word(job.get("state_reason")),
        EndTime=datetime.fromtimestamp(end_s, UTC).isoformat() if known_end and end_s else None,
        MinMemoryNode=None if per_node is None else f"{per_node}M",
        MinMemoryCPU=None if per_cpu is None else f"{per_cpu}M",
    )


def render_node(node: Mapping[str, Any]) -> str:
    """Return one node as a line."""
    return _render(
        NodeName=_find_word(node.get("name")),
        CPUTot=find_number(node.get("cpus")),
        RealMemory=find_number(node.get("real_memory")),
        MemSpecLimit=find_number(node.get("specialized_memory")) or None,
    )


def find_number(value: object) -> int | None:
    """Return the number in any of its forms; None when it is not set, or without limit."""
    if isinstance(value, dict):
        if not value.get("set") or value.get("infinite"):
            return None
        value = value.get("number")
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or value in _NO_VALUES:
        return None
    return value


def _find_state(value: object) -> str | None:
    """Return the state; of several words the first that is none but for the flag of a job that is about to end."""
    words = value if isinstance(value, list) else [value]
    states = [word for word in map(_find_word, words) if word]
    return "COMPLETING" if "COMPLETING" in states else next(iter(states), None)


def _find_word(value: object) -> str | None:
    """A word without blanks or anything that could be taken for another field."""
    return value if isinstance(value, str) and value.isprintable() and value and not set(value) & set(" =") else None


def _render(**fields: object) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items() if value is not None) + "\n"


def _decode(text: str) -> _Document:
    try:
        return msgspec.json.decode(text, type=_Document)
    except (msgspec.MsgspecError, RecursionError):
        return _Document()


def find_release(texts: Iterable[str]) -> tuple[int, int] | None:
    """Return year and month of the first release named, in `slurm 23.11.4`, `slurm-wlm 22.05.8` or `23.11.0`."""
    for text in texts:
        for word in text.split():
            year, _, rest = word.partition(".")
            month = rest.partition(".")[0]
            if year.isdecimal() and month.isdecimal():
                return int(year), int(month)
    return None
