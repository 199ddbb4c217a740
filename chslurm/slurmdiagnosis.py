# SPDX-License-Identifier: Apache-2.0
"""The same for SLURM: its release, our job, and what of it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chslurm import remedies
from chslurm.allocation import Allocation, render_nodelist
from chslurm.checkup import Row, Topic, Verdict
from chslurm.diagnosis import Tried
from chslurm.slurmjson import find_release
from chslurm.units import render_size

_LEAST = (20, 11)
"""The first release whose srun knows --overlap."""


@dataclass(frozen=True, slots=True)
class SlurmFacts:
    """What SLURM's programs say here."""

    version: Tried | None = None  # srun --version; None: there is no srun
    ping: Tried | None = None  # scontrol ping
    text: bool = False  # scontrol's plain text answers
    json: bool = False
    pyslurm: Tried | None = None
    mpi: Sequence[str] = ()  # srun --mpi=list


def judge_slurm(facts: SlurmFacts, family: remedies.Family, *, in_job: bool) -> Iterator[Row]:
    """What SLURM's programs say, in or outside of a job."""
    yield _judge_release(facts, family, in_job=in_job)
    if facts.version and not facts.version.trouble:
        yield _judge_records(facts, in_job=in_job)
        words = ", ".join(facts.mpi) or "none"
        yield Row(Topic.MPI, f"{words}: for steps of your own; guests have an MPI of theirs")


def judge_job(job: Allocation | Tried | None) -> Row:
    """Our job, or why it can't be understood."""
    if job is None:
        return Row(Topic.JOB, "none: salloc -N2 chslurm doctor --nodes looks at nodes", Verdict.NOT_TRIED)
    if isinstance(job, Tried):
        remedy = job.hint or "env | grep ^SLURM shows them: start it in the job itself, and copy none"
        return Row(Topic.JOB, job.trouble, Verdict.FAILED, remedy)
    names = [node.name for node in job.nodes]
    cores, memory = sum(node.cores for node in job.nodes), sum(node.memory_mib for node in job.nodes)
    return Row(Topic.JOB, f"{job.slurm_job_id} on {render_nodelist(names)}, {cores} cores, {render_size(memory)}")


def judge_step(step: Tried | None) -> Iterator[Row]:
    """A step beside others, if there was one to start."""
    if step and step.trouble:
        remedy = "srun --overlap --mpi=none -N1 -n1 true, in the job, tells more"
        yield Row(Topic.STEPS, step.trouble, Verdict.FAILED, remedy)
    elif step:
        yield Row(Topic.STEPS, step.found)


def _judge_release(facts: SlurmFacts, family: remedies.Family, *, in_job: bool) -> Row:
    if facts.version is None or facts.version.trouble:
        found = facts.version.trouble if facts.version else "no srun here"
        if in_job:
            return Row(Topic.SLURM, f"{found}, though SLURM_JOB_ID is set", Verdict.FAILED, _install(family))
        return Row(Topic.SLURM, f"{found}: clusters run on this machine alone", Verdict.NOT_TRIED)
    version = facts.version.found
    release = find_release([version])
    if release is not None and release < _LEAST:
        remedy = "steps beside others (srun --overlap) came with 20.11: ask the site for a newer SLURM"
        return Row(Topic.SLURM, version, Verdict.FAILED, remedy)
    if facts.ping and facts.ping.trouble:
        return Row(Topic.SLURM, f"{version}; {facts.ping.trouble}", Verdict.WARNING, "scontrol ping")
    return Row(Topic.SLURM, version + (f"; {facts.ping.found}" if facts.ping else ""))


def _judge_records(facts: SlurmFacts, *, in_job: bool) -> Row:
    pyslurm = facts.pyslurm or Tried(trouble="not looked for")
    offers = [("scontrol", facts.text), ("scontrol --json", facts.json), ("pyslurm", not pyslurm.trouble)]
    have = [name for name, answers in offers if answers]
    unused = f"; pyslurm: {pyslurm.trouble}" if pyslurm.trouble else f"; {pyslurm.found}"
    if not have:
        verdict = Verdict.WARNING if in_job else Verdict.NOT_TRIED
        remedy = "scontrol show job; a job with --mem does without"
        return Row(Topic.RECORDS, f"nobody answers{unused}", verdict, remedy)
    return Row(Topic.RECORDS, f"by {', else '.join(have)}{unused}")


def _install(family: remedies.Family) -> str:
    return f"load the site's module for SLURM, or: {remedies.install(['srun'], family)}"
