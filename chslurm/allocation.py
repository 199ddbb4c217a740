# SPDX-License-Identifier: Apache-2.0
"""What we were given: the nodes of a SLURM allocation, or this machine, with cores, memory and an end.

SLURM describes an allocation in environment variables; what they leave out (a node's memory, the end, KillWait) is in
the records that `scontrol` prints, passed in here as text. What is garbled or contradicts itself is refused, with the
variable's name: a cluster built on a guess would be killed by SLURM later, or disturb others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import hostlist

from chslurm.addresses import MAX_HOSTS
from chslurm.errors import UsageError
from chslurm.kinds import Mode
from chslurm.units import parse_count, quote

DEFAULT_KILL_WAIT_S = 30.0
"""SLURM's own default."""

_CORES_ENTRY = re.compile(r"([0-9]{1,7})(?:\(x([0-9]{1,7})\))?", re.ASCII)
_NO_LIMIT_MIB = 1 << 40
# fmt: off
_OVER = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "COMPLETING", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
})
# fmt: on

UNKNOWN_JOB = "Invalid job id"
"""What SLURM answers, in a sentence, about a job that ended some minutes ago."""

_HET_PART = re.compile(r"SLURM_JOB_ID_HET_GROUP_[0-9]+", re.ASCII)
_RECORD_FIELD = re.compile(r"(?:^|\s)([A-Za-z]+)=(\S*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Node:
    """One machine, or the part of it that is ours."""

    name: str
    cores: int
    memory_mib: int  # that we may use at all
    free_mib: int | None = None  # that nobody uses now; unknown (None) in an allocation, where it is ours anyway


@dataclass(frozen=True, slots=True)
class Allocation:
    """Where guests may run."""

    mode: Mode
    nodes: tuple[Node, ...]
    slurm_job_id: str = ""
    end_time_unix_s: float | None = None
    kill_wait_s: float = DEFAULT_KILL_WAIT_S
    slurm_version: str = ""


@dataclass(frozen=True, slots=True)
class SlurmRecords:
    """What `scontrol` printed; empty where it was not asked or did not answer."""

    nodes: str = ""  # -o show node NODELIST
    job: str = ""  # -o show job ID
    config: str = ""  # show config


def is_allocation(environment: Mapping[str, str]) -> bool:
    """Say whether we run inside a SLURM job."""
    return bool(environment.get("SLURM_JOB_ID"))


def needs_records(environment: Mapping[str, str]) -> bool:
    """Say whether the variables leave the memory open, so that the records of nodes and job have to be read."""
    return not any(environment.get(name, "0").strip("0") for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"))


def make_allocation(environment: Mapping[str, str], records: SlurmRecords) -> Allocation:
    """Return the allocation of the job we run in. Raises UsageError when its description makes no sense."""
    _check_kind_of_job(environment)
    names = parse_nodelist(_variable(environment, "SLURM_JOB_NODELIST"), "SLURM_JOB_NODELIST")
    cores = _parse_cores_per_node(_variable(environment, "SLURM_JOB_CPUS_PER_NODE"))
    stated = parse_count(_variable(environment, "SLURM_JOB_NUM_NODES"), "SLURM_JOB_NUM_NODES")
    if not len(names) == len(cores) == stated:
        raise UsageError(
            f"contradiction: {len(names)} nodes in SLURM_JOB_NODELIST, {len(cores)} in SLURM_JOB_CPUS_PER_NODE, "
            f"{stated} in SLURM_JOB_NUM_NODES",
            hint="start it directly in the job, with the job's own variables",
        )
    memory = _memory_of_nodes(environment, names, cores, records)
    job_id = str(parse_count(environment["SLURM_JOB_ID"], "SLURM_JOB_ID", most=(1 << 32) - 1))
    end_time_unix_s = _end_time(environment, find_record(records.job, job_id))
    _check_state(job_id, records.job)  # last, so that what is garbled is told as such
    return Allocation(
        mode=Mode.CLUSTER,
        nodes=tuple(Node(*node) for node in zip(names, cores, memory, strict=True)),
        slurm_job_id=job_id,
        end_time_unix_s=end_time_unix_s,
        kill_wait_s=_kill_wait(records.config),
        slurm_version=_slurm_version(records.config),
    )


def is_job_over(state: str) -> bool:
    """Say whether a SLURM job in this state has ended, or is about to."""
    return state in _OVER


def find_job_state(records: str, job_id: str) -> tuple[str, str]:
    """Return state and reason of a job from its record, `scontrol -o show job`; empty words when it is not there.

    The records of all tasks of an array come together; a job that SLURM has forgotten counts as COMPLETED.
    """
    if UNKNOWN_JOB in records:
        return "COMPLETED", ""
    record = find_record(records, job_id)
    return record.get("JobState", ""), record.get("Reason", "")


def find_record(records: str, job_id: str) -> dict[str, str]:
    """Return the fields of one job's record; none when it is not there.

    An array's tasks are jobs of their own, with numbers that variables know, too; the array has that of its last task.
    """
    parsed = (_parse_record(line) for line in records.splitlines())
    return next((record for record in parsed if record.get("JobId") == job_id), {})


def render_nodelist(names: Sequence[str]) -> str:
    """Return nodes as SLURM writes them, `cn[001-003]`: thousands fit into an argument."""
    return str(hostlist.collect_hostlist(names))


def _check_kind_of_job(environment: Mapping[str, str]) -> None:
    parts = [name for name in environment if _HET_PART.fullmatch(name)]
    if parts or environment.get("SLURM_HET_SIZE"):
        count = environment.get("SLURM_HET_SIZE") or str(len(parts))
        raise UsageError(
            f"SLURM_HET_SIZE {quote(count)}: a heterogeneous job, whose components have nothing in common to share out",
            hint="submit a job of one component: without ` : ` between options, or `#SBATCH hetjob`",
        )
    if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        tasks = quote(environment["SLURM_STEP_NUM_TASKS"])
        raise UsageError(
            f"SLURM_STEP_NUM_TASKS {tasks}: srun started it several times",
            hint="start it without srun, or once: srun -n1",
        )


def _check_state(job_id: str, record: str) -> None:
    """A shell that salloc has started outlives its allocation, and keeps its variables."""
    state, _ = find_job_state(record, job_id)
    if is_job_over(state):
        raise UsageError(
            f"SLURM job {quote(job_id)} is over: {state}", hint="leave this shell, and ask for another job"
        )


def _variable(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise UsageError(f"{name}: not set, though SLURM_JOB_ID is", hint="start it directly in the job")
    return value


def parse_nodelist(text: str, name: str) -> tuple[str, ...]:
    """Return the nodes that variable `name` lists. Raises UsageError for what is no list, or has no nodes' names."""
    try:
        names = tuple(hostlist.expand_hostlist(text, allow_duplicates=True))
    except hostlist.BadHostlist as error:
        raise UsageError(f"{name} {quote(text)}: {error}") from error
    except RecursionError as error:  # thousands of brackets, or a line break, of which hostlist finds no end
        raise UsageError(f"{name} {quote(text)}: not a list of nodes") from error
    if not 0 < len(names) <= MAX_HOSTS:
        raise UsageError(f"{name} {quote(text)}: {len(names)} nodes", hint=f"use 1 to {MAX_HOSTS}")
    for node in names:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", node, re.ASCII) or node.startswith("-"):
            raise UsageError(f"{name} {quote(text)}: {quote(node)} is not a node's name")
    if len(set(names)) < len(names):
        raise UsageError(f"{name} {quote(text)}: names a node twice")
    return names


def _parse_cores_per_node(text: str) -> tuple[int, ...]:
    """Expand `4`, `4(x2),2`..."""
    name = "SLURM_JOB_CPUS_PER_NODE"
    cores: list[int] = []
    for entry in text.split(","):
        found = _CORES_ENTRY.fullmatch(entry)
        count, times = (int(found[1]), int(found[2] or 1)) if found else (0, 0)
        if not count or not times or len(cores) + times > MAX_HOSTS:
            raise UsageError(f"{name} {quote(text)}: can't read {quote(entry)}", hint="SLURM writes 4 or 4(x2),2")
        cores += [count] * times
    return tuple(cores)


def _memory_of_nodes(
    environment: Mapping[str, str], names: tuple[str, ...], cores: tuple[int, ...], records: SlurmRecords
) -> tuple[int, ...]:
    """MiB on each node: as the job asked for (per node or per CPU), else the node's by its share of cores.

    SLURM writes 0 for "all memory of the node". What the site's defaults gave stands in no variable, but in the job's
    record.
    """
    if environment.get("SLURM_MEM_PER_GPU"):
        raise UsageError("SLURM_MEM_PER_GPU: memory by GPU is not supported", hint="ask SLURM with --mem")
    per_node, per_cpu = (_memory(environment, name) for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"))
    if per_node is None and per_cpu is None:
        job = find_record(records.job, environment.get("SLURM_JOB_ID", ""))
        per_node, per_cpu = (_recorded_memory(job.get(name)) for name in ("MinMemoryNode", "MinMemoryCPU"))
    if per_node or per_cpu:
        limits = (per_node or _NO_LIMIT_MIB, per_cpu or _NO_LIMIT_MIB)
        return tuple(min(limits[0], limits[1] * count) for count in cores)
    whole = 0 in (per_node, per_cpu)
    known = {record.get("NodeName", ""): record for record in map(_parse_record, records.nodes.splitlines())}
    return tuple(
        _node_memory(name, count, known.get(name, {}), whole) for name, count in zip(names, cores, strict=True)
    )


def _memory(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    return parse_count(text, name, least=0) if text else None


def _recorded_memory(text: str | None) -> int | None:
    """MiB of `1500M`, `4G` or `0` in a record of SLURM; None when it is not there."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d+)?)([KMGT]?)", text or "")
    if match is None:
        return None
    factor = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[match[2]]
    return int(float(match[1]) * factor)


def _node_memory(name: str, cores: int, record: Mapping[str, str], whole: bool) -> int:
    try:
        memory_mib = int(record["RealMemory"]) - int(record.get("MemSpecLimit", "0"))
        all_cores = int(record["CPUTot"])
    except (KeyError, ValueError) as error:
        hint = "ask SLURM for memory with --mem"
        raise UsageError(f"node {name}: can't find out its memory from scontrol", hint=hint) from error
    return memory_mib if whole else memory_mib * min(cores, all_cores) // max(all_cores, 1)


def _parse_record(line: str) -> dict[str, str]:
    """Return the fields of one line of `scontrol -o`; values with blanks are cut, none of ours has any."""
    return {key: value for key, value in _RECORD_FIELD.findall(line)}


def _end_time(environment: Mapping[str, str], job: Mapping[str, str]) -> float | None:
    stated = environment.get("SLURM_JOB_END_TIME")
    if stated:
        return float(parse_count(stated, "SLURM_JOB_END_TIME", most=1 << 40))
    try:
        return datetime.fromisoformat(job.get("EndTime", "")).timestamp()
    except ValueError:  # "Unknown", or no answer
        return None


def _kill_wait(config: str) -> float:
    found = re.search(r"^KillWait\s*=\s*([0-9]{1,6})\b", config, re.MULTILINE | re.ASCII)
    return float(found[1]) if found else DEFAULT_KILL_WAIT_S


def _slurm_version(config: str) -> str:
    found = re.search(r"^SLURM_VERSION\s*=\s*([0-9][\w.-]{0,31})", config, re.MULTILINE | re.ASCII)
    return found[1] if found else ""
