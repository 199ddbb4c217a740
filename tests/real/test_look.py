# SPDX-License-Identifier: Apache-2.0
"""A cluster seen from outside: from nodes in and out of its job, by its user and others, to its end and after."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from realbox import Box, Job, Result, choose_user, start_box, wait_for

pytestmark = [pytest.mark.real, pytest.mark.alone]

SCRIPT = r"""#!/bin/bash
printf '\033]0;evil\007\033[31mred\033[0m on %s \033[2J\342\200\256\n' "$(hostname)"
printf '1 %%\r2 %%\r3 %%\n'
echo complaint >&2
until [ -e /ch/data1/stop ]; do sleep 0.5; done
echo "last words of guest $CH_GUEST_ID"
exit 3
"""

WHERE = ("login", "cn002", "cn003")
"""Outside of the job, in it beside the head, on a node that is not its own."""


@pytest.fixture(scope="module")
def job(box_program: str) -> Iterator[Job]:
    """A batch job on two nodes, whose script runs on both guests until `data/stop` is there."""
    with start_box(box_program, choose_user()) as box:
        script = box.write("job.sh", SCRIPT)
        (box.folder / "data").mkdir()
        os.chown(box.folder / "data", *box._ids())
        chrun = ["chrun", "--jobdir", "c", "--job", script, "--dir", "data", box.image]
        job = box.sbatch(*chrun, nodes=2, options=("--nodelist=cn[001-002]", "--time=20"))
        try:
            for guest in (0, 1):
                job.wait_event("job_started", guest)
            yield job
        finally:
            box("scancel", job.id)
            job.wait()


def register(box: Box) -> list[Path]:
    """Entries of clusters in the user's home."""
    return list((box.folder.parent / ".local" / "state" / "chslurm" / "clusters").glob("*"))


def look(box: Box, *command: str, node: str = "login") -> Any:
    done = box("chslurm", *command, "--json", node=node)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def mine(box: Box, *command: str, node: str = "login") -> list[dict[str, Any]]:
    return [row for row in look(box, *command, node=node) if row["job_dir"].startswith(str(box.folder))]


@pytest.mark.parametrize("node", WHERE)
def test_it_is_listed_everywhere(job: Job, node: str) -> None:
    (found,) = mine(job.box, "ps", node=node)
    assert 0 < found.pop("left_s") <= 1200
    assert 0 < found.pop("age_s") < 1200
    plan = json.loads((job.dir / "run" / "plan.json").read_text())
    assert found == {
        "name": "c", "cluster_id": plan["cluster_id"], "mode": "cluster", "host": "cn001", "slurm_job_id": job.id,
        "slurm_state": "RUNNING", "running": True, "state": "running", "ready": 2, "guests": 2,
        "created": plan["created"], "job_dir": str(job.dir),
    }  # fmt: skip
    assert re.search(rf"^c +job {job.id} +2/2 +running +0:", job.box("chslurm", "ps", node=node).stdout, re.M)


@pytest.mark.parametrize("node", WHERE)
def test_its_guests_are_told(job: Job, node: str) -> None:
    status = look(job.box, "status", "-c", "c", node=node)
    assert (status["state"], status["cause"], status["exit_status"]) == ("running", None, None)
    guests = [(guest["name"], guest["node"], guest["address"], guest["state"]) for guest in status["guests"]]
    assert guests == [("chgu0", "cn001", "172.22.1.1", "running job"), ("chgu1", "cn002", "172.22.2.1", "running job")]
    began_s = [job.wait_event("job_started", guest)["unix_s"] for guest in (0, 1)]
    assert [guest["since_unix_s"] for guest in status["guests"]] == began_s
    assert {guest["stage"] for guest in status["guests"]} == {"99-runjob"}


@pytest.mark.parametrize("node", WHERE)
def test_its_guests_are_heard_and_can_do_no_harm(job: Job, node: str) -> None:
    wait_for(lambda: (job.dir / "out" / "1_job.err").read_text(), 20, lambda: "no error output")
    text = job.box("chslurm", "logs", "-c", "c", node=node).stdout
    assert text == "".join(
        f"chgu{guest}: red on chgu{guest} \\u202e\nchgu{guest}: 3 %\nchgu{guest} err: complaint\n" for guest in (0, 1)
    )
    console = job.box("chslurm", "logs", "-c", "c", "-w", "chgu1", "--console", node=node).stdout
    assert re.search(r"^\S+: running 99-runjob\.sh$", console, re.M)
    assert all(line.isprintable() for line in console.replace("\t", "").split("\n"))
    assert job.box("chslurm", "logs", "-c", "c", "-w1", "--console", "-n2", node=node).stdout.count("\n") <= 2


def test_where_we_are_and_what_we_say_tell_which_is_meant(job: Job) -> None:
    box = job.box
    for command in (
        ["env", "-C", str(job.dir / "out"), "chslurm", "status", "--json"],
        ["env", "CHSLURM_CLUSTER=c", "chslurm", "status", "--json"],
        ["chslurm", "status", "--json", "-c", str(job.dir)],
        ["chslurm", "status", "--json", "-c", look(box, "ps")[-1]["cluster_id"][:8]],
    ):
        assert json.loads(box(*command).stdout)["job_dir"] == str(job.dir), command
    done = box("chslurm", "status", "-c", "nothing")
    assert (done.returncode, done.stderr) == (
        64, "chslurm: cluster 'nothing': none of yours that runs is called so; chslurm ps shows them;"
        " name one that has ended by its job directory\n",
    )  # fmt: skip


def test_other_users_see_nothing(job: Job) -> None:
    other = os.environ.get("CHSLURM_OTHER_USER", "chother")

    def ask(*words: str) -> Result:
        argv = [job.box.program, "on", "login", "--user", other, "--", "env", "-C", "/", "chslurm", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    done = ask("ps")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no cluster of yours runs\n")
    for command in ("status", "logs"):
        done = ask(command, "-c", str(job.dir))
        assert (done.returncode, done.stdout) == (64, "")
        assert re.fullmatch(r"chslurm: job directory '\S+': (Permission denied|not one of yours.*)\n", done.stderr)


def test_the_register_holds_no_more_than_it_needs(job: Job) -> None:
    (entry,) = [path for path in register(job.box) if str(job.dir) in path.read_text()]
    assert (entry.stat().st_mode & 0o777, entry.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert json.loads(entry.read_text())["host"] == "cn001"


def test_it_is_followed_to_its_end_and_told_after(job: Job) -> None:
    box = job.box
    with box.start("chslurm", "logs", "-f", "-c", "c", "--job", "-n0", node="cn003") as follower:
        time.sleep(2)
        (box.folder / "data" / "stop").touch()
        output, _ = follower.communicate(timeout=120)
    lines = sorted(output.splitlines())
    assert (follower.returncode, lines) == (0, [f"chgu{guest}: last words of guest {guest}" for guest in (0, 1)])
    assert job.wait()["ExitCode"] == "3:0"
    assert mine(box, "ps") == []
    assert [path for path in register(box) if str(job.dir) in path.read_text()] == []
    (row,) = mine(box, "ps", "-a", node="cn003")
    assert (row["name"], row["running"], row["state"], row["left_s"]) == ("c", False, "ended", None)
    status = look(box, "status", "-c", "c", node="cn003")
    assert (status["state"], status["cause"], status["exit_status"]) == ("ended", "job", 3)
    phases = [event["phase"] for event in job.events() if event["kind"] == "phase"]
    assert (phases, phases[0], phases[-1]) == (sorted(phases), 0, 6)
    assert [(guest["state"], guest["status"]) for guest in status["guests"]] == [("gone", 3), ("gone", 3)]
    assert box("chslurm", "logs", "-c", "c", "-w0", "--job", "-n1").stdout == "last words of guest 0\n"


def test_a_killed_head_is_forgotten(box: Box) -> None:
    script = box.write("job.sh", "#!/bin/bash\nsleep 1000\n")
    head = box.start("vcluster", "-n1", "--cores=1", "--ram=512M", "--jobdir=c", "--job", script, box.image)
    job = Job(box, "")
    job.wait_event("guest_started")
    wait_for(lambda: [row["state"] for row in mine(box, "ps")] == ["starting"], 10, lambda: str(mine(box, "ps")))
    (entry,) = [path for path in register(box) if str(job.dir) in path.read_text()]
    os.kill(json.loads(entry.read_text())["pid"], signal.SIGKILL)
    head.communicate(timeout=30)
    assert entry.exists()
    assert mine(box, "ps", node="cn002") == []
    assert not entry.exists()
    assert [row["state"] for row in mine(box, "ps", "-a")] == ["died"]
    assert look(box, "status", "-c", "c")["state"] == "died"
    wait_for(lambda: not box.residue(), 60, box.residue)
