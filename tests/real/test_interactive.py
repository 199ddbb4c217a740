# SPDX-License-Identifier: Apache-2.0
"""Interactive clusters: they boot and run nothing, the user works in the guests, and guest 0's shutdown is the end.

On a workstation they are tried by the tutorial.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from realbox import Box, Job, Result, wait_for

pytestmark = pytest.mark.real

SCRIPT = '#!/bin/bash\necho "by hand on $(hostname), guest $CH_GUEST_ID of $CH_GUEST_CT"; ls /ch/meta/interactive\n'


@contextmanager
def start_head(box: Box, *command: str) -> Iterator[tuple[Job, subprocess.Popen[str]]]:
    """Start a cluster in job directory `c` and wait until one can log in on the consoles of its two guests."""
    with box.start(*command, "--jobdir=c", box.image) as head:
        job = Job(box, "")
        try:
            for guest in (0, 1):
                wait_login(job, guest)
            yield job, head
        finally:
            head.terminate()


def enter(job: Job, guest: int, *command: str) -> Result:
    """Run a command in a guest, over ssh from its host: in the guests' network, with the cluster's key."""
    plan = json.loads((job.dir / "run" / "plan.json").read_text())
    host, slot = (plan["guests"][guest][name] for name in ("host", "slot"))
    (keys,) = (job.dir / "run").glob("keys.*")
    ssh = ["ssh", "-i", f"{keys}/id_ed25519", "-o", f"UserKnownHostsFile={keys}/known_hosts", "-o", "BatchMode=yes"]
    ssh += ["-o", "StrictHostKeyChecking=yes", f"charlie@172.22.{host}.{slot}", *command]
    where = plan["hosts"][host - 1]["name"]
    enter_network = ["nsenter", f"--target={find_holder(job, guest)}", "--user", "--preserve-credentials", "--net"]
    return job.box(*enter_network, *ssh, node=where)


def find_holder(job: Job, guest: int) -> int:
    """The process that holds a guest's network: a fork of the one that started QEMU, with its command line."""
    qemu = int(job.wait_event("guest_started", guest)["status"])
    status = Path(f"/proc/{qemu}/status").read_text()
    oneguest = int(re.findall(r"^PPid:\s+(\d+)$", status, re.M)[0])
    children = Path(f"/proc/{oneguest}/task/{oneguest}/children").read_text().split()
    command = Path(f"/proc/{oneguest}/cmdline").read_bytes()
    (holder,) = (int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == command)
    return holder


def wait_login(job: Job, guest: int) -> None:
    job.wait_event("guest_ready", guest)
    console = job.dir / "out" / f"{guest}_console.out"
    wait_for(lambda: re.search(rf"chgu{guest} login: $", console.read_text()), 60, lambda: console.read_text()[-2000:])


def shut_down(job: Job, head: subprocess.Popen[str]) -> None:
    """Shut guest 0 down from inside and look at what is left: overlays, and no temporary disks or keys."""
    enter(job, 0, "sudo", "shutdown", "-h", "now")
    output, _ = head.communicate(timeout=60)
    assert head.returncode == 0, output
    summary = job.summary()
    assert (summary["cause"], summary["text"]) == ("shutdown", "guest 0 was shut down")
    assert "guest 0 was shut down" in output
    assert not list((job.dir / "run").glob("keys*"))
    for guest in (0, 1):
        assert (job.dir / "run" / f"{guest}.overlay.qcow2").exists()
        assert not (job.dir / "run" / f"{guest}.tmp.qcow2").exists()
        log = (job.dir / "out" / f"{guest}_oneguest.out").read_text()
        assert re.search(rf"^deleted \S+/run/{guest}.tmp.qcow2\noneguest done$", log, re.M), log


@pytest.mark.long  # the tutorial works in guests by hand, and a template leads there from salloc
def test_in_an_allocation(box: Box) -> None:
    script = box.write("job.sh", SCRIPT)
    with start_head(box, "salloc", "-N2", "chrun", "--interactive", "--job", script) as (job, head):
        check_work_in_guests(job)
        enter(job, 1, "sudo", "poweroff")
        gone = job.wait_event("guest_gone", 1)
        assert (gone.get("status", 0), gone["text"]) == (0, "shut down")
        assert enter(job, 0, "sleep 1; hostname").stdout == "chgu0\n"
        assert head.poll() is None
        shut_down(job, head)


def check_work_in_guests(job: Job) -> None:
    """Nothing has run by itself; the job script and the other guest are there for the user."""
    assert [event for event in job.events() if event["kind"] == "job_started"] == []
    assert [(job.dir / "out" / f"0_job.{end}").read_text() for end in ("out", "err")] == ["", ""]

    script = "bash -lc /ch/meta/jobscript"
    unknown = "ssh -o GlobalKnownHostsFile=/dev/null -o BatchMode=yes chgu1 hostname"
    seen = enter(job, 0, f"{script}; ssh chgu1 {script}; ssh 172.22.2.1 ssh chgu0 hostname; ssh -G chgu1; {unknown}")
    by_hand = "".join(f"by hand on chgu{guest}, guest {guest} of 2\n/ch/meta/interactive\n" for guest in (0, 1))
    assert seen.stdout.startswith(f"{by_hand}chgu0\n"), seen.stderr
    assert "\nstricthostkeychecking true\n" in seen.stdout
    assert seen.returncode == 255
    assert "Host key verification failed" in seen.stderr
