# SPDX-License-Identifier: Apache-2.0
"""A launch that has failed ends with what the doctor says of the host where it did: rows that aren't well, few of them.

The host's own task looks, when no guest there has said a word, and tells it as events. The head looks where no host has
come up. Whatever goes wrong here never hides why the launch failed. The doctor is loaded when there is such a case.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from chslurm.allocation import is_allocation
from chslurm.errors import ChslurmError, ExitCode
from chslurm.host.lines import tell
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, decode_event
from chslurm.phases import Cause
from chslurm.plan import Mode, NetworkKind, Plan
from chslurm.report import Summary
from chslurm.request import Request

if TYPE_CHECKING:
    from chslurm.checkup import Needs, Topic
    from chslurm.host.steward import Steward
    from chslurm.host.trials import Patient

_PAUSE_S = 0.02
"""After each row, and each is said twice: of lines that come at once SLURM tears some."""


def tell_causes(plan: Plan, number: int, stewards: Sequence[Steward], *, failed: bool) -> None:
    """Tell the head what on this host could be why no guest has come up: because it failed, or its guests at once."""
    if any(guest.spoke for guest in stewards) or not (failed or any(guest.stillborn for guest in stewards)):
        return
    with suppress(Exception):
        _look_and_tell(plan, number)


def _look_and_tell(plan: Plan, number: int) -> None:
    from chslurm.checkup import OF_A_LAUNCH, Needs

    host = plan.host(number)
    guests = plan.guests_of(host)
    needs = Needs(
        mode=plan.mode,
        host_ct=len(plan.hosts),
        guest_ct=len(guests),
        ram_mib=guests[0].ram_mib,
        accelerator=plan.accelerator,
        tunnel=plan.tunnel,
        network=plan.network,
        site=_uses_roots(plan, len(guests)),
    )
    lines = _explain(_make_patient(plan, needs, host.name), OF_A_LAUNCH - _find_spared(needs), os.environ)
    for line in (*lines, *lines):
        tell(Event(EventKind.CHECKUP, number, text=line))
        time.sleep(_PAUSE_S)


def explain_end(plan: Plan, summary: Summary, environment: Mapping[str, str]) -> Summary:
    """Return the summary with what hosts, or this one, found about a launch of which no guest has come up."""
    if summary.cause in (Cause.LOST, Cause.MACHINERY):
        with suppress(Exception):
            return replace(summary, causes=tuple(_find_causes(plan, environment)))
    return summary


def _find_causes(plan: Plan, environment: Mapping[str, str]) -> list[str]:
    events = _read_events(Path(JobDir(PurePath(plan.job_dir)).events))
    if any(event.kind is EventKind.GUEST_STAGE for event in events):
        return []
    from chslurm.checkup import OF_A_HEAD, Needs, render_told

    heard = dict.fromkeys((event.text, event.host) for event in events if event.kind is EventKind.CHECKUP)
    told: dict[str, list[str]] = {}
    for line, host in heard:
        if 1 <= host <= len(plan.hosts):  # else the line was torn on its way
            told.setdefault(line, []).append(plan.host(host).name)
    if not told and not any(event.kind in (EventKind.NODE_UP, EventKind.NODE_FAILED) for event in events):
        needs = Needs(plan.mode, len(plan.hosts), len(plan.guests))
        told = {line: [] for line in _explain(_make_patient(plan, needs), OF_A_HEAD, environment)}
    return render_told(told, len(plan.hosts))


def explain_error(error: ChslurmError, request: Request, environment: Mapping[str, str]) -> None:
    """Add the same to the error of a launcher that could not begin. What the user gave is told by the error itself."""
    if error.exit_code is not ExitCode.MACHINERY:
        return
    from chslurm.checkup import OF_A_HEAD, Needs, render_told
    from chslurm.host.trials import Patient

    mode = Mode.CLUSTER if is_allocation(environment) else Mode.WORKSTATION
    base = Path(request.job_dir or request.job_base)
    patient = Patient(Needs(mode), request.image, base, Path(request.tmp_dir or base))
    lines = _explain(patient, OF_A_HEAD, environment)
    error.causes = tuple(render_told({line: [] for line in lines}, 1))


def _make_patient(plan: Plan, needs: Needs, own: str = "") -> Patient:
    from chslurm.host.fabric import find_other
    from chslurm.host.trials import Patient

    image, folder = PurePath(plan.image.path), Path(plan.job_dir)
    tmp_dir, other = Path(plan.disks.tmp_dir or folder), find_other((host.name for host in plan.hosts), own)
    return Patient(needs, image, folder, tmp_dir, plan.slurm_job_id or "0", other)


def _uses_roots(plan: Plan, guest_ct: int) -> bool:
    """Whether the network is one that root has made; in a job its hosts find that out."""
    from chslurm.host.nettrials import has_room

    if plan.mode is Mode.CLUSTER and plan.network is NetworkKind.AUTO:
        with suppress(Exception):
            return has_room(plan.mode, plan.slurm_job_id, guest_ct)
    return plan.network is NetworkKind.SITE


def _find_spared(needs: Needs) -> set[Topic]:
    """What a launch of this kind does without."""
    from chslurm.checkup import Topic

    if needs.mode is Mode.WORKSTATION:
        return {Topic.VXLAN, Topic.WIREGUARD}
    return {Topic.OUTSIDE} if needs.host_ct > 1 else {Topic.OUTSIDE, Topic.VXLAN, Topic.WIREGUARD}


def _explain(patient: Patient, topics: Collection[Topic], environment: Mapping[str, str]) -> list[str]:
    from chslurm.checkup import choose_told, render_row
    from chslurm.doctor import check_host

    with suppress(Exception):
        return [render_row(row) for row in choose_told(check_host(patient, topics, environment))]
    return []


def _read_events(journal: Path) -> list[Event]:
    """What the head has written down; of a full disk nothing."""
    with suppress(OSError):
        lines = journal.read_bytes().splitlines()
        return [event for line in lines if (event := decode_event(line)) is not None]
    return []
