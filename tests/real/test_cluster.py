# SPDX-License-Identifier: Apache-2.0
"""A batch job, its guest, its output, its exit status. With several nodes and MPI the tutorial goes the whole way."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from realbox import Box

pytestmark = pytest.mark.real

PROBE = """#!/bin/bash
# What a guest sees, for the tests to read.
echo "arguments: $*"
id
grep -E '^(CH_|SLURM_JOB_ID)' <(env) | sort
df --output=source,fstype,target / /ch/tmp /ch/meta /ch/data1 | tail -n +2
stat -c '%a' /ch/tmp
sed -n 's/ .*//;2p' /proc/swaps
ls -d /ch/tmp/lost+found
umask
sudo touch /ch/tmp/root-was-here && echo 'root in /ch/tmp'
echo mine >/ch/data1/from-$CH_GUEST_ID
sudo chown root /ch/data1/from-$CH_GUEST_ID || echo 'no root in /ch/data1'
sudo touch /ch/meta/x || echo 'meta is read-only'
sudo touch /ch/opt/x || echo 'opt is read-only'
readlink /etc/hosts
echo 'to the error port' >&2
head -c 300000 /dev/zero | tr '\\0' '\\r'
exit "$1"
"""


def test_job_sees_what_was_promised_and_its_status_comes_back(box: Box) -> None:
    script = box.write("probe.sh", PROBE)
    (box.folder / "data, with comma").mkdir()
    subprocess.run(["chown", "-R", "--reference", str(box.folder), str(box.folder / "data, with comma")], check=True)
    chrun = ["chrun", "--jobdir", "c", "--job", script, "--dir", "data, with comma", box.image, "--", "7", "b c"]
    job = box.sbatch(*chrun)
    record = job.wait()
    assert (record["JobState"], record["ExitCode"]) == ("FAILED", "7:0"), job.output
    assert job.summary()["cause"] == "job"
    assert "report: ./c/report.html, also .json and .png" in job.output
    assert (job.dir / "report.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((job.dir / "report.json").read_text())["exit_status"] == 7
    assert f"chgu0 on {job.summary()['guests'][0]['node']}" in (job.dir / "report.html").read_text()
    output = (job.dir / "out" / "0_job.out").read_bytes()
    text = output.decode()
    uid = box.folder.stat().st_uid
    assert "arguments: 7 b c" in text
    assert f"uid={uid}(charlie) gid=65530(charlie)" in text
    for name in ("CH_META=/ch/meta", "CH_GUEST_ID=0", "CH_GUEST_IP=172.22.1.1", "CH_DATA1=/ch/data1"):
        assert f"\n{name}\n" in text
    assert f"SLURM_JOB_ID={job.id}" in text
    assert re.search(r"^/dev/vda1 +ext4 +/$", text, re.M)
    assert re.search(r"^/dev/vdb2 +ext4 +/ch/tmp$", text, re.M)
    assert re.search(r"^meta +9p +/ch/meta$", text, re.M)
    lines = ("1777", "/dev/vdb1", "/ch/tmp/lost+found", "0007", "root in /ch/tmp", "no root in /ch/data1")
    assert [line for line in lines if f"\n{line}\n" not in text] == []
    assert "meta is read-only\nopt is read-only\n/ch/meta/hosts\n" in text
    assert output.count(b"\r") == 300000
    assert "to the error port" in (job.dir / "out" / "0_job.err").read_text()
    made = box.folder / "data, with comma" / "from-0"
    assert (made.read_text(), made.stat().st_uid, made.stat().st_mode & 0o777) == ("mine\n", uid, 0o660)
    console = (job.dir / "out" / "0_console.out").read_text()
    stamp = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d: "
    for line in ("running 99-runjob.sh", "will shut down after job", "user job complete; writing 0.jobdone"):
        assert re.search(stamp + line, console, re.M), console
