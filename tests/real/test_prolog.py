# SPDX-License-Identifier: Apache-2.0
"""Jobs whose network root makes in SLURM's Prolog, with real guests: used, told, and gone after the job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from realbox import Box, Job, start_box, wait_for

pytestmark = [pytest.mark.real, pytest.mark.alone]

MEETING = """#!/usr/bin/python3
# Every guest answers, and guest 0 asks all of them, over TCP; what it hears is the job's output.
import os, socket, time
name, count = socket.gethostname(), int(os.environ["CH_GUEST_CT"])
with socket.create_server(("", 7000)) as server:
    if name == "chgu0":
        for guest in range(1, count):
            for _ in range(60):
                try:
                    with socket.create_connection((f"chgu{guest}", 7000), 2) as asked:
                        print("met", asked.recv(64).decode(), flush=True)
                    break
                except OSError:
                    time.sleep(0.5)
    else:
        asking, _ = server.accept()
        asking.sendall(name.encode())
        asking.close()
"""
PATIENT = MEETING.replace("import os,", "import time; time.sleep(20)\nimport os,")
NODES = ("cn001", "cn002", "cn003")


@pytest.fixture
def other(box_program: str) -> Iterator[Box]:
    """The same box as another user has it."""
    with start_box(box_program, os.environ.get("CHSLURM_OTHER_USER", "chother")) as other:
        yield other


def submit(box: Box, *options: str, script: str = MEETING, nodes: int = 2) -> Job:
    launcher = ("chrun", "--jobdir", "c", *options, "--job", box.write("job.py", script), box.image)
    return box.sbatch(*launcher, nodes=nodes, options=("--partition=site", "--mem=1200", "--cpus-per-task=1"))


def notes(job: Job) -> list[str]:
    return [event["text"] for event in job.events() if event["kind"] == "node_note"]


def output(job: Job) -> str:
    return (job.dir / "out" / "0_job.out").read_text()


def left(box: Box) -> str:
    """What of any job's network is on any node."""
    links = "ip -br link | grep -E '^ch[0-9a-z]+(b|v|t[0-9]+)'"
    look = f"ls -A /run/chslurm-jobs /run/netns | grep -v :; {links}; nft list tables"
    return "".join(box("sh", "-c", look, node=node, user="root").stdout.strip() for node in NODES)


def test_two_users_at_once_on_the_same_nodes_each_in_a_network_made_by_root(box: Box, other: Box) -> None:
    """Each job's guests meet, and their user comes to them; of the other's, at the same addresses, nothing is seen."""
    mine, theirs = submit(box, script=PATIENT), submit(other)
    mine.wait_event("job_started", 1)
    told = box("chslurm", "ssh", "-c", "c", "1", "--", "hostname").stdout
    stranger = other("chslurm", "ssh", "-c", str(mine.dir), "1", "--", "hostname")
    for job in (theirs, mine):
        record = job.wait()
        assert record["ExitCode"] == "0:0", job.output
        assert any(
            note.startswith("network: site, made by root for this job, hosts joined by VXLAN") for note in notes(job)
        )
        assert "met chgu1" in output(job)
    assert (mine.record()["NodeList"], theirs.record()["NodeList"]) == ("cn[001-002]", "cn[001-002]")
    assert told == "chgu1\n"
    assert stranger.returncode != 0
    assert left(box) == ""


def test_who_asks_for_none_or_too_much_has_a_rootless_one_or_is_told(box: Box) -> None:
    job = submit(box, "--network=rootless", nodes=1)
    assert job.wait()["ExitCode"] == "0:0", job.output
    assert not [note for note in notes(job) if note.startswith("network: site")]
    assert left(box) == ""


def test_a_site_network_that_is_demanded_and_not_there(box: Box) -> None:
    script = box.write("job.py", MEETING)
    job = box.sbatch("chrun", "--jobdir", "c", "--network=site", "--job", script, box.image, nodes=1)
    assert job.wait()["ExitCode"] == "70:0"
    assert "can't use a network made by root on cn001: root has made none for this job" in job.output


def test_a_network_on_some_nodes_only_ends_the_cluster_and_names_them(box: Box) -> None:
    run = f"chrun --jobdir c --job {box.write('job.py', MEETING)} {box.image}"
    wait = "srun --ntasks=2 true && touch begun && until [ -e go ]; do sleep 0.2; done"
    job = box.sbatch("sh", "-c", f"{wait} && exec {run}", nodes=2, options=("--partition=site",))
    wait_for((box.folder / "begun").exists, 60, lambda: f"no step: {job.output}")
    done = box("env", f"SLURM_JOB_ID={job.id}", "chslurm", "net", "epilog", node="cn002", user="root")
    assert (done.returncode, done.stderr) == (0, "")
    (box.folder / "go").touch()
    assert job.wait()["ExitCode"] == "70:0", job.output
    assert "can't join the hosts: root has made a network for this job on cn001, and not on cn002" in job.output
    assert left(box) == ""


def test_what_nobody_gets_with_filters_somebody_gets_without(box: Box) -> None:
    """At TAPs, so that nothing has to boot: two jobs, the second of which is the control of the first."""
    script = "srun -n1 chslurm net check --taps --json {} >{}"
    for partition, words in (("site", ("", "check")), ("open", ("--control-for check", "table"))):
        job = box.sbatch("sh", "-c", script.format(*words), options=(f"--partition={partition}",))
        assert job.wait()["ExitCode"] == "0:0", job.output
    rows = json.loads((box.folder / "table").read_text())["rows"]
    attacks = [row for row in rows if row["id"][0] == "S" and row["verdict"] != "not tried"]
    assert {row["id"] for row in attacks} == {"S1", "S2", "S3", "S4", "S5", "S6", "S8", "S9"}
    for row in attacks:
        assert (row["verdict"], row["arrived"]) == ("ok", "nowhere")
        assert row["control"] == f"open network: {row['sent']} of {row['sent']}"
    assert left(box) == ""


def test_a_network_without_filters_is_for_no_cluster(box: Box) -> None:
    script = box.write("job.py", MEETING)
    launcher = ("chrun", "--jobdir", "c", "--network=site", "--job", script, box.image)
    job = box.sbatch(*launcher, options=("--partition=open", "--mem=1200"))
    assert job.wait()["ExitCode"] == "70:0"
    assert "can't use a network made by root on cn001: root's has no filters" in job.output
    assert left(box) == ""
