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
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from chslurm.allocation import is_allocation, parse_nodelist
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
from chslurm.configured import make_settled_request
from chslurm.diagnosis import Tried, judge_clocks
from chslurm.errors import ChslurmError, UsageError
from chslurm.host import nettrials, slurm, trials
from chslurm.host.bounded import run_bounded
from chslurm.host.configfiles import read_settings
from chslurm.host.doctorstep import ask_nodes
from chslurm.host.fabric import find_other
from chslurm.host.process import make_own_argv
from chslurm.host.slurmtrials import try_job, try_slurm, try_step
from chslurm.host.trials import Patient
from chslurm.limits import NO_LIMITS
from chslurm.plan import Mode, NetworkKind
from chslurm.request import NOTHING_ASKED, Request
from chslurm.slurmdiagnosis import judge_job, judge_slurm, judge_step

_PATIENCE_S = 10.0
"""Of all trials on a host, which take a second or two."""

_PAUSE_S = 0.01
"""Between rows, so that few come at once."""

_STEP_S = 40.0
"""Until the nodes have answered: srun waits for nodes that are busy."""

Trial = Callable[[Patient], Iterable[Row]]

_TRIALS: tuple[tuple[tuple[Topic, ...], Trial], ...] = (
    ((Topic.USER,), trials.try_user),
    ((Topic.ALLOWED,), trials.try_allowed),
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


def _try_slurm(environment: Mapping[str, str]) -> Iterable[Row]:
    return judge_slurm(try_slurm(environment), trials.find_family(), in_job=is_allocation(environment))


_SLURM_TRIALS: tuple[tuple[tuple[Topic, ...], Callable[[Mapping[str, str]], Iterable[Row]]], ...] = (
    ((Topic.SLURM, Topic.RECORDS, Topic.MPI), _try_slurm),
    ((Topic.JOB,), lambda environment: [judge_job(try_job(environment))]),
    ((Topic.STEPS,), lambda environment: judge_step(try_step(environment))),
)
_OF_SLURM = frozenset({Topic.SLURM, Topic.JOB, Topic.STEPS, Topic.RECORDS, Topic.MPI})
_OF_HOST = frozenset(Topic) - _OF_SLURM - {Topic.ALLOWED}
_DECODER = msgspec.json.Decoder(list[Row])


# -- the command ------------------------------------------------------------------------------------------------------


def make_patient(asked: Mapping[str, str | None], cwd: Path, environment: Mapping[str, str]) -> Patient:
    """Return this host with what a launch would ask of it: `asked` by options, or by settings within the site's limits.

    Raises UsageError for settings that can't be relied on, and options that make no sense.
    """
    settings = read_settings(environment)
    image = asked["image"] or settings.find("image")
    options: Any = {**NOTHING_ASKED, **asked, "image": image or "none"}
    in_job = is_allocation(environment)
    request = make_settled_request(options, cwd, replace(settings, limits=NO_LIMITS), in_job=in_job)
    refusal = None
    try:
        request = make_settled_request(options, cwd, settings, in_job=in_job)
    except UsageError as error:
        refusal = Tried(trouble=error.message, hint=error.hint)
    return Patient(
        needs=_make_needs(request, environment),
        image=request.image if image else None,
        job_base=Path(request.job_base),
        tmp_dir=None if request.tmp_dir is None else Path(request.tmp_dir),
        limits=settings.limits,
        refusal=refusal,
    )


def _make_needs(request: Request, environment: Mapping[str, str]) -> Needs:
    default, host_ct = Needs(), 1
    if in_job := is_allocation(environment):
        host_ct = _count_nodes(environment)
    guest_ct = request.guest_ct or (host_ct if in_job else default.guest_ct)
    return Needs(
        mode=Mode.CLUSTER if in_job else Mode.WORKSTATION,
        host_ct=host_ct,
        guest_ct=-(-guest_ct // host_ct),
        ram_mib=request.ram_mib or default.ram_mib,
        accelerator=request.accelerator,
        tunnel=request.tunnel,
        network=request.network,
    )


def check_here(patient: Patient, environment: Mapping[str, str]) -> list[Finding]:
    """Return the rows of this host."""
    rows = check_host(_place(patient, environment), frozenset(Topic), environment)
    return merge_rows({"here": rows})


def check_nodes(patient: Patient, environment: Mapping[str, str]) -> list[Finding]:
    """Return the rows of all nodes of our job. Raises UsageError outside of one, ChslurmError when no step runs."""
    if not is_allocation(environment):
        raise UsageError("--nodes: not in a SLURM job", hint="salloc -N2 chslurm doctor --nodes")
    allocation = slurm.read_allocation(environment)
    names = [node.name for node in allocation.nodes]
    argv = slurm.make_step_argv(names, "/", _make_task(patient), environment)
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
    ours = check_host(patient, (Topic.ALLOWED, Topic.SLURM, Topic.RECORDS, Topic.MPI), environment)
    return merge_rows({"": [*ours, judge_job(allocation), judge_clocks(answers.ahead_s)]}) + merge_rows(rows)


def _make_task(patient: Patient) -> list[str]:
    """The doctor of a node, who is told everything: settings are read once, here."""
    needs = msgspec.json.encode(patient.needs).decode()
    folders = [f"--jobbase={patient.job_base}", *([] if patient.tmp_dir is None else [f"--tmp-dir={patient.tmp_dir}"])]
    image = [] if patient.image is None else ["--", str(patient.image)]
    return [*make_own_argv("chslurm.cli.main", "doctor", f"--as-node={needs}", *folders), *image]


def answer_as_node(
    needs: str, image: PurePath | None, job_base: Path, tmp_dir: Path | None, environment: Mapping[str, str]
) -> None:
    """Print the rows of this node, for `check_nodes` on another. Raises UsageError for needs that it did not write."""
    try:
        patient = Patient(msgspec.json.decode(needs, type=Needs), image, job_base, tmp_dir)
    except msgspec.MsgspecError as error:
        raise UsageError(f"--as-node: {error}", hint="it is for the doctor") from error
    node = environment.get("SLURMD_NODENAME") or socket.gethostname()
    rows = check_host(_place(patient, environment), _OF_HOST, environment)
    for row in rows * 2:  # of lines that come all at once some are torn on their way; those of the second time, others
        _say(Answer(node, row))
    for _ in range(2):
        _say(Answer(node, row_ct=len(rows), unix_s=time.time()))


def _say(answer: Answer) -> None:
    os.write(sys.stdout.fileno(), encode_answer(answer))
    time.sleep(_PAUSE_S)


# -- one host ---------------------------------------------------------------------------------------------------------


def check_host(patient: Patient, topics: Collection[Topic], environment: Mapping[str, str]) -> list[Row]:
    """Try everything about `topics` on this host. Nothing is raised, and nothing is waited for longer than 10 s."""
    with ExitStack() as stack:
        with suppress(OSError):  # without it some can't be tried, which their rows say
            folder = TemporaryDirectory(prefix="chslurm-doctor-", ignore_cleanup_errors=True)
            patient = replace(patient, scratch=Path(stack.enter_context(folder)))
        tried = [
            *((of, partial(trial, patient)) for of, trial in _TRIALS),
            *((of, partial(trial, environment)) for of, trial in _SLURM_TRIALS),
        ]
        chosen = {str(number): trial for number, trial in enumerate(tried) if set(trial[0]) & set(topics)}
        answers = run_bounded({name: partial(_do, trial) for name, (_, trial) in chosen.items()}, _PATIENCE_S)
    rows = [row for name, answer in answers.items() for row in _read(answer, chosen[name][0])]
    return [row for row in rows if row.topic in topics]


def _do(trial: Callable[[], Iterable[Row]]) -> bytes:
    return msgspec.json.encode(list(trial()))


def _read(answer: bytes | None, topics: Sequence[Topic]) -> list[Row]:
    if answer is None:
        found = f"no answer in {_PATIENCE_S:g} s"
        if topics[0] in _OF_SLURM:  # for which a launch waits longer
            return [Row(topics[0], found, Verdict.WARNING, "scontrol ping says whether the controller answers")]
        remedy = "a file server or a device may hang: sudo dmesg | tail"
        return [Row(topic, found, Verdict.FAILED, remedy) for topic in topics]
    with suppress(msgspec.MsgspecError):
        return _DECODER.decode(answer)
    # it had no process, or did what nobody thought of: that this host is well has not been seen
    remedy = "ulimit -u may be too low; when it is not, tell the makers of chslurm"
    return [Row(topic, "could not be tried", Verdict.FAILED, remedy) for topic in topics]


def _place(patient: Patient, environment: Mapping[str, str]) -> Patient:
    """Return it with what this host has for its job."""
    needs, job_id, other = patient.needs, "", ""
    if is_allocation(environment):
        job_id = environment["SLURM_JOB_ID"] if environment["SLURM_JOB_ID"].isdecimal() else "0"
        own = environment.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]
        with suppress(ChslurmError):  # told by the row of the job
            other = find_other(parse_nodelist(environment.get("SLURM_JOB_NODELIST", ""), "SLURM_JOB_NODELIST"), own)
    if needs.network is not NetworkKind.ROOTLESS:
        with suppress(ChslurmError, OSError):
            needs = replace(needs, site=nettrials.has_room(needs.mode, job_id, needs.guest_ct))
    return replace(patient, needs=needs, job_id=job_id, other=other)


def _count_nodes(environment: Mapping[str, str]) -> int:
    text = environment.get("SLURM_JOB_NUM_NODES", "1")
    return int(text) if text.isdecimal() else 1


def make_json(findings: Sequence[Finding]) -> bytes:
    """Return rows for programs."""
    rows = [{**msgspec.to_builtins(finding.row), "nodes": finding.nodes} for finding in findings]
    return msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n"
