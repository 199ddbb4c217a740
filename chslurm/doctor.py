# SPDX-License-Identifier: Apache-2.0
"""STORY of a check-up: what a launch needs is tried on this host, or on each node of a job, and told in rows.

Trials are the launcher's own code, each in a process that is thrown away, all at the same time.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

import msgspec

from chslurm.allocation import is_allocation
from chslurm.checkup import (
    Answer,
    Finding,
    Needs,
    Row,
    Topic,
    Verdict,
    encode_answer,
    merge_rows,
)
from chslurm.diagnosis import judge_clocks
from chslurm.errors import ChslurmError, UsageError
from chslurm.host import nettrials, slurm, trials
from chslurm.host.bounded import run_bounded
from chslurm.host.doctorstep import ask_nodes
from chslurm.host.process import make_own_argv
from chslurm.host.slurmtrials import try_slurm
from chslurm.host.trials import Patient
from chslurm.plan import Mode
from chslurm.slurmdiagnosis import judge_slurm

_PATIENCE_S = 10.0
"""Of all trials on a host, which take a second or two."""

_PAUSE_S = 0.01
"""Between rows, so that few come at once."""

_STEP_S = 40.0
"""Until the nodes have answered: srun waits for nodes that are busy."""

Trial = Callable[[Patient], Iterable[Row]]

_TRIALS: tuple[tuple[tuple[Topic, ...], Trial], ...] = (
    ((Topic.USER,), trials.try_user),
    ((Topic.PROGRAMS,), trials.try_programs),
    ((Topic.QEMU, Topic.PASSTHROUGH), trials.try_qemu),
    ((Topic.KVM,), trials.try_kvm),
    ((Topic.VHOST,), trials.try_vhost),
    ((Topic.IMAGE,), trials.try_image),
    ((Topic.NAMESPACES, Topic.TUN, Topic.FILTERS, Topic.WIREGUARD), trials.try_network),
    ((Topic.OUTSIDE,), trials.try_outside),
    ((Topic.VXLAN,), trials.try_vxlan),
    ((Topic.SITE,), trials.try_site),
    ((Topic.MEMORY,), trials.try_memory),
    ((Topic.JOB_SPACE,), trials.try_job_space),
    ((Topic.TMP_SPACE,), trials.try_tmp_space),
    ((Topic.SHM_SPACE,), trials.try_shm_space),
    ((Topic.PATHS,), trials.try_paths),
    ((Topic.LIMITS,), trials.try_limits),
    ((Topic.CLOCK,), trials.try_clock),
)
_OF_SLURM = (Topic.SLURM, Topic.JOB, Topic.STEPS, Topic.RECORDS, Topic.MPI)
_OF_HOST = frozenset(Topic) - frozenset(_OF_SLURM)
_DECODER = msgspec.json.Decoder(list[Row])


# -- the command ------------------------------------------------------------------------------------------------------


def check_here(
    image: PurePath | None, job_base: Path, tmp_dir: Path | None, environment: Mapping[str, str]
) -> list[Finding]:
    """Return the rows of this host."""
    patient = _make_patient(image, job_base, tmp_dir, environment)
    rows = check_host(patient, frozenset(Topic), environment)
    return merge_rows({"here": rows})


def check_nodes(
    image: PurePath | None, job_base: Path, tmp_dir: Path | None, environment: Mapping[str, str]
) -> list[Finding]:
    """Return the rows of all nodes of our job. Raises UsageError outside of one, ChslurmError when no step runs."""
    if not is_allocation(environment):
        raise UsageError("--nodes: not in a SLURM job", hint="salloc -N2 chslurm doctor --nodes")
    allocation = slurm.read_allocation(environment)
    names = [node.name for node in allocation.nodes]
    options = [f"--jobbase={job_base}", *([] if tmp_dir is None else [f"--tmp-dir={tmp_dir}"])]
    task = make_own_argv("chslurm.cli.main", "doctor", "--as-node", *options)
    argv = slurm.make_step_argv(names, "/", [*task, *([] if image is None else ["--", str(image)])], environment)
    answers = ask_nodes(argv, names, _STEP_S + len(names) / 20)
    if not answers.ahead_s:
        last = answers.words.splitlines()[-1:] or ["srun said nothing"]
        raise ChslurmError(f"can't look at the nodes: {last[0]}", hint="try srun --overlap hostname in the job")
    rows = dict(answers.rows)
    silent = [name for name in names if name not in answers.ahead_s]
    for name in silent:
        gone = Row(Topic.STEPS, "does not answer", Verdict.FAILED, "scontrol show node tells more")
        rows[name] = [*rows[name], gone]
    for name, lost_ct in answers.lost.items():
        torn = Row(Topic.STEPS, f"{lost_ct} rows were lost on their way here", Verdict.NOT_TRIED, "look once more")
        rows[name] = [*rows[name], torn]
    ours = _check_slurm(environment, step=False)
    return merge_rows({"": [*ours, judge_clocks(answers.ahead_s)]}) + merge_rows(rows)


def answer_as_node(
    image: PurePath | None, job_base: Path, tmp_dir: Path | None, environment: Mapping[str, str]
) -> None:
    """Print the rows of this node, for `check_nodes` on another."""
    patient = _make_patient(image, job_base, tmp_dir, environment)
    node = environment.get("SLURMD_NODENAME") or socket.gethostname()
    rows = check_host(patient, _OF_HOST, environment)
    for row in rows * 2:  # of lines that come all at once some are torn on their way; those of the second time, others
        os.write(sys.stdout.fileno(), encode_answer(Answer(node, row)))
        time.sleep(_PAUSE_S)
    os.write(sys.stdout.fileno(), encode_answer(Answer(node, row_ct=len(rows), unix_s=time.time())))


# -- one host ---------------------------------------------------------------------------------------------------------


def check_host(patient: Patient, topics: Collection[Topic], environment: Mapping[str, str]) -> list[Row]:
    """Try everything about `topics` on this host. Nothing is raised, and nothing is waited for longer than 10 s."""
    chosen = {str(number): trial for number, trial in enumerate(_TRIALS) if set(trial[0]) & set(topics)}
    work = {name: partial(_do, trial, patient) for name, (_, trial) in chosen.items()}
    if set(_OF_SLURM) & set(topics):
        work["slurm"] = partial(_do_slurm, environment)
    answers = run_bounded(work, _PATIENCE_S)
    rows: list[Row] = []
    for name, answer in answers.items():
        tried = _OF_SLURM[:1] if name == "slurm" else chosen[name][0]
        rows += _read(answer, tried)
    return [row for row in rows if row.topic in topics]


def _do(trial: Trial, patient: Patient) -> bytes:
    return msgspec.json.encode(list(trial(patient)))


def _do_slurm(environment: Mapping[str, str]) -> bytes:
    return msgspec.json.encode(_check_slurm(environment, step=True))


def _check_slurm(environment: Mapping[str, str], *, step: bool) -> list[Row]:
    facts = try_slurm(environment, step=step)
    return list(judge_slurm(facts, trials.find_family(), in_job=is_allocation(environment)))


def _read(answer: bytes | None, topics: Sequence[Topic]) -> list[Row]:
    if answer is None:
        remedy = "a file server or a device may hang: sudo dmesg | tail"
        return [Row(topic, f"no answer in {_PATIENCE_S:g} s", Verdict.FAILED, remedy) for topic in topics]
    with suppress(msgspec.MsgspecError):
        return _DECODER.decode(answer)
    return [Row(topic, "could not be tried", Verdict.NOT_TRIED) for topic in topics]


def _make_patient(
    image: PurePath | None, job_base: Path, tmp_dir: Path | None, environment: Mapping[str, str]
) -> Patient:
    """What a launch without more options would ask of this host."""
    needs, job_id = Needs(), ""
    if is_allocation(environment):
        job_id = environment["SLURM_JOB_ID"] if environment["SLURM_JOB_ID"].isdecimal() else "0"
        needs = Needs(mode=Mode.CLUSTER, host_ct=_count_nodes(environment), guest_ct=1)
    with suppress(ChslurmError, OSError):
        needs = replace(needs, site=nettrials.has_room(needs.mode, job_id, needs.guest_ct))
    folder = tmp_dir or Path(environment.get("TMPDIR") or "/tmp")
    return Patient(needs, image, job_base, folder, job_id)


def _count_nodes(environment: Mapping[str, str]) -> int:
    text = environment.get("SLURM_JOB_NUM_NODES", "1")
    return int(text) if text.isdecimal() else 1


def make_json(findings: Sequence[Finding]) -> bytes:
    """Return rows for programs."""
    rows = [{**msgspec.to_builtins(finding.row), "nodes": finding.nodes} for finding in findings]
    return msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n"
