# SPDX-License-Identifier: Apache-2.0
"""The honest end: whatever goes wrong, the user reads one line, SLURM's record shows it, and nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from realbox import Box, Job, wait_for

pytestmark = pytest.mark.real

SLEEP = "#!/bin/bash\nsleep 1000\n"
SAVE = """#!/bin/bash
trap 'mv /ch/data1/{new,saved}-$CH_GUEST_ID; exit 9' TERM
touch /ch/data1/new-$CH_GUEST_ID
sleep 1000
"""


def start_job(box: Box, script: str = SLEEP, *chrun: str, nodes: int = 2, options: tuple[str, ...] = ()) -> Job:
    job = box.write("job.sh", script)
    where = f"--nodelist=cn[001-{nodes:03}]"  # messages name the node
    return box.sbatch("chrun", "--jobdir", "c", *chrun, "--job", job, box.image, nodes=nodes, options=(where, *options))


def qemu_of(job: Job, guest: int) -> int:
    """The process of a guest's QEMU, which tells its job directory on its command line."""
    pid = int(job.wait_event("guest_started", guest)["status"])
    assert str(job.dir).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return pid


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^PPid:\s+(\d+)$", status, re.M)[0])


def check_failed(job: Job, status: int, *words: str) -> None:
    """The job's record shows `status`, and one line of its output has all the words."""
    record = job.wait()
    assert (record["JobState"], record["ExitCode"]) == ("FAILED", f"{status}:0"), job.output
    lines = [line for line in job.output.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, job.output


def test_qemu_is_confined(box: Box) -> None:
    job = start_job(box, nodes=1)
    pid = qemu_of(job, 0)
    job.wait_event("guest_stage")  # QEMU confines itself when it has opened everything
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\t(\S+)", status, re.M))
    assert (fields["Seccomp"], fields["NoNewPrivs"], int(fields["CapEff"], 16)) == ("2", "1", 0)
    assert box("scancel", job.id).returncode == 0
    job.wait()


@pytest.mark.parametrize(
    ("number", "words", "moment"),
    [
        (signal.SIGKILL, "QEMU ended: killed by SIGKILL", "job_started"),
        pytest.param(signal.SIGINT, "QEMU was ended by a signal", "guest_stage", marks=pytest.mark.long),
    ],
)
def test_killed_qemu_is_told(box: Box, number: signal.Signals, words: str, moment: str) -> None:
    job = start_job(box)
    job.wait_event(moment, 1)
    os.kill(qemu_of(job, 1), number)
    check_failed(job, 70, "guest 1 on cn002", words, "see out/1_console.out")
    assert job.summary()["cause"] == "lost"
    report = (job.dir / "report.html").read_text()
    assert "chgu1 on cn002: " + ("job: " if moment == "job_started" else "") in report
    assert "<h3>out/1_console.out" in report


@pytest.mark.parametrize(
    ("blow", "words"),
    [
        ("echo c | sudo tee /proc/sysrq-trigger", "kernel panic"),
        ("sudo reboot -f", "rebooted from inside"),
    ],
)
def test_guest_that_goes_away_by_itself_is_told(box: Box, blow: str, words: str) -> None:
    job = start_job(box, f"#!/bin/bash\n{blow}\nsleep 1000\n", nodes=1)
    check_failed(job, 70, "guest 0 on cn001", words)


@pytest.mark.long
def test_guest_that_leaves_the_others_alone_is_told(box: Box) -> None:
    job = start_job(box, "#!/bin/bash\n[ $CH_GUEST_ID = 0 ] || sudo poweroff -f\nsleep 1000\n")
    check_failed(job, 70, "guest 1 on cn002", "shut down")


def test_hung_guest_is_told_with_the_stage_it_reached(box: Box) -> None:
    job = start_job(box, SLEEP, "--boot-timeout=15", nodes=1)
    pid = qemu_of(job, 0)
    os.kill(pid, signal.SIGSTOP)
    check_failed(job, 70, "guest 0 on cn001", "see out/0_console.out")


@pytest.mark.parametrize(
    ("number", "moment"),
    [pytest.param(signal.SIGKILL, "guest_stage", marks=pytest.mark.long), (signal.SIGTERM, "job_started")],
)
def test_killed_node_task_is_told(box: Box, number: signal.Signals, moment: str) -> None:
    job = start_job(box)
    qemu = qemu_of(job, 1)
    job.wait_event(moment, 1)
    os.kill(parent_of(qemu), number)
    check_failed(job, 70, "cn002", "oneguest", "see out/step.out" if number is signal.SIGKILL else "SIGTERM")
    assert not Path(f"/proc/{qemu}").exists()


def test_killed_head_leaves_nothing(box: Box) -> None:
    job = start_job(box)
    job.wait_event("fabric_ready")
    (head,) = find_processes(str(box.folder), "chrun")
    os.kill(head, signal.SIGKILL)
    assert job.wait()["JobState"] == "FAILED"


def find_processes(*words: str) -> list[int]:
    """Processes with all these words on their command line, but slurm-box's own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words) and "python" in line.split(" ")[0]:
            found.append(int(path.parent.name))
    return found


def start_outside(box: Box, limit: str) -> subprocess.Popen[str]:
    """A head on the login node: salloc's command, to which SLURM's signals do not come, or late."""
    script = box.write("outside.sh", SLEEP)
    chrun = ["chrun", "--jobdir", "outside", "--job", script, box.image]
    return box.start("salloc", "--nodes=1", "--nodelist=cn002", "--job-name=outside", limit, *chrun)


def check_outside(box: Box, head: subprocess.Popen[str], status: int, words: str) -> None:
    output, _ = head.communicate(timeout=150)
    assert json.loads((box.folder / "outside" / "run" / "summary.json").read_text())["exit_status"] == status, output
    assert words in output


def test_slurms_time_limit_is_told(box: Box) -> None:
    """Wherever the head is. Both at once: the shortest limit is a minute."""
    head = start_outside(box, "--time=1")
    job = start_job(box, options=("--time=1",), nodes=1)
    record = job.wait()
    assert record["JobState"] == "TIMEOUT"
    assert "SLURM's time limit has passed" in job.output
    assert job.summary()["exit_status"] == 124
    check_outside(box, head, 124, "SLURM's time limit has passed")


@pytest.mark.long
def test_own_time_limit_is_told(box: Box) -> None:
    check_failed(start_job(box, SLEEP, "--time-limit=0:00:15", nodes=1), 124, "the time limit of 15 s has passed")


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.long)])
def test_interrupt_ends_the_cluster(box: Box, times: int) -> None:
    script = box.write("job.sh", SLEEP)
    head = box.start("vcluster", "-n1", "--cores=1", "--ram=512M", "--jobdir=c", "--job", script, box.image)
    Job(box, "").wait_event("job_started")
    (pid,) = find_processes(str(box.folder), "vcluster")
    for _ in range(times):
        os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
    output, _ = head.communicate(timeout=60)
    assert head.returncode == 130, output
    assert "interrupted" in output


def test_hang_up_ends_the_cluster(box: Box) -> None:
    script = box.write("job.sh", SLEEP)
    head = box.start("vcluster", "-n1", "--cores=1", "--ram=512M", "--jobdir=c", "--job", script, box.image)
    Job(box, "").wait_event("guest_started")
    (pid,) = find_processes(str(box.folder), "vcluster")
    os.kill(pid, signal.SIGHUP)
    output, _ = head.communicate(timeout=60)
    assert head.returncode == 143, output


GRACE_S = 5
MOMENTS = {
    "head": "node_up",
    "fabric": "fabric_ready",
    "kernel": "guest_started",
    "job": "job_started",
    "shutdown": "job_ended",
}


@pytest.fixture(scope="module")
def kill_wait(request: pytest.FixtureRequest, box_program: str) -> Iterator[int]:
    """A box whose SLURM has this KillWait."""
    subprocess.run([box_program, "up", "--kill-wait", str(request.param)], check=True, capture_output=True)
    yield request.param
    subprocess.run([box_program, "up"], check=True, capture_output=True)


OFTEN = {(5, "head"), (5, "fabric"), (5, "kernel"), (5, "job"), (30, "job")}
CANCELS = [
    pytest.param(kill_wait, moment, marks=[] if (kill_wait, moment) in OFTEN else pytest.mark.long)
    for kill_wait in (5, 30)
    for moment in MOMENTS
]


@pytest.mark.alone
@pytest.mark.parametrize(("kill_wait", "moment"), CANCELS, indirect=["kill_wait"])
def test_scancel_at_any_moment_leaves_nothing(box: Box, kill_wait: int, moment: str) -> None:
    """Gone when SLURM would kill what is left; a machine that does other things too has some seconds more."""
    script = "#!/bin/bash\nsleep 1\n" if moment == "shutdown" else SAVE
    data = box.folder / "data"
    data.mkdir()
    os.chown(data, *box._ids())
    job = start_job(box, script, "--dir", "data")
    job.wait_event(MOMENTS[moment])
    if moment == "job":
        wait_for(lambda: len(list(data.iterdir())) == 2, 60, lambda: f"the scripts did not come so far: {job.output}")
    assert box("scancel", job.id).returncode == 0
    began_s = time.monotonic()
    wait_for(lambda: job.record()["JobState"] == "CANCELLED", kill_wait + GRACE_S, lambda: str(job.record()))
    wait_for(lambda: not box.residue(), kill_wait + GRACE_S - (time.monotonic() - began_s), box.residue)
    if moment == "job":
        assert "cancelled" in job.output
    if (moment, kill_wait) == ("job", 30):  # time for an end in order, with what the script has to save
        assert sorted(path.name for path in data.iterdir()) == ["saved-0", "saved-1"]
        assert [guest["clean"] for guest in job.summary()["guests"]] == [True, True]


def test_a_head_outside_the_job_learns_that_it_was_cancelled(box: Box) -> None:
    head = start_outside(box, "--time=9")
    events = box.folder / "outside" / "run" / "events.jsonl"
    wait_for(lambda: events.exists() and "guest_stage" in events.read_text(), 120, lambda: "no guest")
    assert box("scancel", "--name=outside").returncode == 0
    check_outside(box, head, 143, "the SLURM job was cancelled")
