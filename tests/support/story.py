# SPDX-License-Identifier: Apache-2.0
"""A cluster that only a head's journal makes, with times that a test can name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from chslurm.account import Account, make_account
from chslurm.jobdir import JobDir
from chslurm.messages import decode_event
from chslurm.plan import Plan, plan_to_json
from chslurm.report import make_summary, summary_to_json
from chslurm.supervise import Supervisor
from chslurm.survey import make_survey, render_phase_entry
from chslurm.timeline import Recorder

START_S = 1767323045.0
"""When it begins."""


class Story:
    """A head's journal, told with times from its beginning."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.supervisor = Supervisor(plan, 0.0)
        self.lines = [render_phase_entry(self.supervisor, START_S)]
        self.phase = self.supervisor.phase

    def add(self, at_s: float, kind: str, host: int = 1, guest: int = -1, **fields: Any) -> None:
        line = json.dumps({"unix_s": START_S + at_s, "kind": kind, "host": host, "guest": guest, **fields}).encode()
        event = decode_event(line)
        assert event is not None
        self.lines.append(line + b"\n")
        self.supervisor.on_event(event, at_s)
        self.enter(at_s)

    def enter(self, at_s: float) -> None:
        if self.supervisor.phase is not self.phase:
            self.phase = self.supervisor.phase
            self.lines.append(render_phase_entry(self.supervisor, START_S + at_s))

    def boot(self) -> None:
        happened: list[tuple[float, str, int, int, dict[str, Any]]] = []
        for host in self.plan.hosts:
            happened += [
                (1, "node_up", host.number, -1, {}),
                (1.25, "node_facts", host.number, -1, {"text": "QEMU 7.2.22, Linux 6.1.0"}),
                (1.5, "fabric_ready", host.number, -1, {"mtu": 1420}),
            ]
        for guest in self.plan.guests:
            happened += [
                (2, "guest_started", guest.host, guest.id, {"status": 77}),
                (5, "guest_stage", guest.host, guest.id, {"text": "kernel 6.1.0-56-amd64 up"}),
                (6, "guest_stage", guest.host, guest.id, {"text": "10-storage"}),
                (7 + guest.id / 4096, "guest_ready", guest.host, guest.id, {}),
                (10, "job_started", guest.host, guest.id, {}),
            ]
        for at_s, kind, number, guest_id, fields in sorted(happened, key=lambda event: event[0]):
            self.add(at_s, kind, number, guest_id, **fields)

    def end(self) -> None:
        for host in self.plan.hosts:
            for guest in host.guest_ids:
                self.add(15 + guest, "job_ended", host.number, guest, status=guest and 3)
        for host in self.plan.hosts:
            for guest in host.guest_ids:
                self.add(20, "guest_gone", host.number, guest, text="shut down")
            self.add(21, "node_done", host.number)

    def tell(self, *, running: bool = False, now_s: float = 30.0) -> Account:
        recorder = Recorder(self.plan)
        summary = make_summary(self.plan, self.supervisor, now_s) if self.supervisor.over else None
        survey = make_survey(self.plan, recorder.watch(self.lines), summary, running=running)
        timeline = recorder.finish(START_S + now_s if running else None)
        return make_account(
            self.plan, survey, timeline,
            name="charlie", history=("built",), running=running, now_unix_s=START_S + now_s,
        )  # fmt: skip

    def write(self, root: Path) -> None:
        """Make the job directory that such a head leaves, as far as it came."""
        job_dir = JobDir(root)
        for folder in (job_dir.run, job_dir.out):
            Path(folder).mkdir(parents=True)
        self.plan = dataclasses.replace(self.plan, job_dir=str(root))
        Path(job_dir.marker).write_text(f"{self.plan.cluster_id}\n")
        Path(job_dir.plan).write_bytes(plan_to_json(self.plan))
        Path(job_dir.events).write_bytes(b"".join(self.lines))
        if self.supervisor.over:
            Path(job_dir.summary).write_bytes(summary_to_json(make_summary(self.plan, self.supervisor, 30.0)))
