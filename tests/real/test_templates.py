# SPDX-License-Identifier: Apache-2.0
"""Every batch template is submitted, by a user who has a checkout in his folder. They share the box's nodes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from realbox import Box, Job, wait_for
from terminals import start_tmux

pytestmark = [pytest.mark.real, pytest.mark.alone]  # all jobs at once: others would have to wait

TOP = Path(__file__).parents[2]
SMALL = ("--cpus-per-task=1", "--mem=1000M")
PATIENCE_S = 240
OFTEN = """#!/bin/bash
# Tell what of other attempts is seen here, work until told to stop, and have enough of it when that was three times.
ls /ch/meta/sync
echo begun >>/ch/data1/log
trap 'echo told to stop | tee -a /ch/data1/log; exit 85' TERM
[ "$(grep -c begun /ch/data1/log)" -le 3 ] || exit 7
sleep 1000 &
wait $!
"""


@pytest.fixture
def user(box: Box) -> Box:
    """One with the examples and templates in his folder."""
    for name in ("examples", "sbatch-templates"):
        shutil.copytree(TOP / name, box.folder / name)
    owner = box.folder.stat()
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", str(box.folder)], check=True)
    subprocess.run(["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", str(box.folder)], check=True)
    return box


def submit(box: Box, name: str, *new: str, options: tuple[str, ...] = SMALL) -> Job:
    """Submit a template as it is, or one that is filled in."""
    script = f"sbatch-templates/{name}.sh"
    if new:
        script = f"my{name}.sh"
        made = box("chslurm", "template", "new", name, "-o", script, "--image", box.image, *new)
        assert made.returncode == 0, made.stderr
    done = box("sbatch", "--parsable", *options, script)
    assert done.returncode == 0, done.stderr
    return Job(box, done.stdout.strip())


def read(box: Box, pattern: str) -> str:
    """All that is in the files of this pattern, in the order of their names."""
    return "".join(path.read_text() for path in sorted(box.folder.glob(pattern)))


def summaries(box: Box, pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(box.folder.glob(f"{pattern}/run/summary.json")):
        yield json.loads(path.read_text())


def wait_text(box: Box, pattern: str, words: str) -> None:
    wait_for(lambda: re.search(words, read(box, pattern)), PATIENCE_S, lambda: f"no {words!r} in {pattern}")


def count(box: Box, folder: str, number: int) -> None:
    """Make a folder for examples/checkpoint/count.sh, where this has been counted."""
    data = box.folder / folder
    data.mkdir(exist_ok=True)
    box.write(f"{folder}/count.0", f"{number}\n", 0o600)
    shutil.chown(data, data.parent.stat().st_uid, data.parent.stat().st_gid)


@pytest.mark.timeout(900)
def test_templates_do_what_they_say(user: Box) -> None:
    count(user, "late", 1)
    count(user, "again", 1)
    program = ("--job", "examples/checkpoint/count.sh", "--dir")
    again = submit(user, "chrequeue", *program, "again", "--", "3600")
    late = submit(user, "chtime", *program, "late", "--", "3600")
    mpi = submit(user, "chmpi")
    array = submit(user, "charray")
    many = submit(
        user, "chmany", "--job", "examples/array/task.sh", "--dir", "examples/array/data", "--nodes=1", "--guests=2",
        "--ram=256M", options=("--cpus-per-task=1", "--mem=1300M"),
    )  # fmt: skip

    for name, job in (("requeue-*", again), ("charlie.*", late)):
        wait_text(user, f"{name}/out/0_job.out", "going on from 1")
        assert user("scancel", "--batch", "--signal=USR1", job.id).returncode == 0
    assert late.wait(PATIENCE_S)["ExitCode"] == "85:0"
    assert "USR1 passed on to the job" in read(user, f"chtime-{late.id}.out")
    assert int((user.folder / "late" / "count.0").read_text()) >= 1

    wait_for(lambda: again.record().get("Restarts") == "1", PATIENCE_S, lambda: read(user, f"chrequeue-{again.id}.out"))
    count(user, "again", 3599)
    user("scontrol", "update", f"JobId={again.id}", "StartTime=now")  # SLURM lets a requeued job wait for two minutes
    assert again.wait(PATIENCE_S)["ExitCode"] == "0:0"
    attempts = [read(user, f"requeue-{again.id}.{number}/out/0_job.out") for number in (0, 1)]
    assert re.fullmatch(r"going on from 1\ntold to stop at \d+\n", attempts[0])
    assert attempts[1] == "going on from 3599\ncounted to 3600\n"
    assert [summary["exit_status"] for summary in summaries(user, f"requeue-{again.id}.*")] == [85, 0]

    for job in (mpi, array, many):
        record = job.wait(PATIENCE_S)
        assert record["ExitCode"] == "0:0", read(user, "ch*.out")
    assert "2 processes on chgu0, chgu1\n" in read(user, "charlie.*/out/0_job.out")
    assert read(user, f"array-{array.id}.*/out/0_job.out") == (
        "task 0, guest 0 of 1: apple\ntask 1, guest 0 of 1: pear\n"
    )
    assert read(user, f"examples/array/data/result-{many.id}.*") == "".join(
        f"task 0, guest {guest} of 2: {word}\n" for guest, word in enumerate(("apple", "pear"))
    )


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("template", "attempts"), [("chrequeue", "requeue-*"), ("chjob", "charlie.*")])
def test_a_job_may_be_requeued_at_any_time(user: Box, template: str, attempts: str) -> None:
    job = submit(user, template, "--job", user.write("often.sh", OFTEN), "--dir", "kept", "--nodes=1")

    def wait_begun(times: int) -> None:
        wait_for(lambda: read(user, "kept/log").count("begun") == times, PATIENCE_S, lambda: read(user, "ch*.out"))

    def wait_queued(times: int) -> None:
        pending = {"JobState": "PENDING", "Restarts": str(times)}
        wait_for(lambda: pending.items() <= job.record().items(), PATIENCE_S, lambda: str(job.record()))

    for times in (1, 2, 3):
        wait_begun(times)
        assert user("scontrol", "requeue", job.id).returncode == 0
        wait_queued(times)
        assert user.residue() == ""
        user("scontrol", "update", f"JobId={job.id}", "StartTime=now")
    record = job.wait(PATIENCE_S)
    assert (record["JobState"], record["ExitCode"], record["Restarts"]) == ("FAILED", "7:0", "3")
    ends = [(summary["cause"], summary["exit_status"]) for summary in summaries(user, attempts)]
    assert ends == [*[("cancelled", 143)] * 3, ("job", 7)]
    outputs = [path.read_text() for path in sorted(user.folder.glob(f"{attempts}/out/0_job.out"))]
    assert outputs == [*["0.jobready\ntold to stop\n"] * 3, "0.jobready\n"]
    assert read(user, "kept/log") == "begun\ntold to stop\n" * 3 + "begun\n"


def test_a_terminal_is_led_into_guest_0(user: Box, tmp_path: Path) -> None:
    where = ["env", "-C", str(user.folder), f"CHSLURM_IMAGE={user.image}"]
    command = ["bash", "sbatch-templates/chinteractive.sh", *SMALL]
    with start_tmux(tmp_path) as tmux:
        window = tmux.open("salloc", [user.program, "on", "login", "--user", user.user, "--", *where, *command])

        def wait_shown(end: str) -> None:
            def look() -> bool:
                lines = window.read()
                return lines != [] and (lines[-1].endswith(end) or "Pane is dead" in lines[-1])

            wait_for(look, PATIENCE_S, lambda: "\n".join(window.read()))
            assert "Pane is dead" not in window.read()[-1], "\n".join(window.read())

        wait_shown("login:")
        window.type("charlie")
        wait_shown("$")
        window.type("touch /ch/data1/seen && sudo poweroff")
        wait_for(lambda: "guest 0 was shut down" in "\n".join(window.read()), PATIENCE_S, lambda: str(window.read()))
    assert (user.folder / "data" / "seen").exists()
    wait_for(lambda: not user("squeue", "--noheader", "--me").stdout, PATIENCE_S, lambda: user("squeue").stdout)
