# SPDX-License-Identifier: Apache-2.0
"""What is decided about attaching: keys, the ssh configuration, the small step that leads to another node."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.host.slurm import make_attach_argv
from chslurm.host.terminal import Keyboard
from chslurm.plan import Plan
from chslurm.sshconfig import render_ssh_config

PlanMaker = Callable[..., Plan]


@pytest.mark.parametrize(
    ("typed", "passed", "left"),
    [
        ([b"ls\r\x03"], b"ls\r\x03", False),
        ([b"a\x1dqb"], b"a", True),
        ([b"a\x1d", b"q"], b"a", True),
        ([b"\x1d\x1d"], b"\x1d", False),
        ([b"\x1dx"], b"\x1dx", False),
        ([b"\x1d\x1dq"], b"\x1dq", False),
    ],
)
def test_one_key_is_ours(typed: list[bytes], passed: bytes, left: bool) -> None:
    keys = Keyboard()
    assert b"".join(keys.take(data) for data in typed) == passed
    assert keys.left is left


@given(st.binary().filter(lambda data: b"\x1d" not in data))
def test_all_other_keys_are_the_guests(data: bytes) -> None:
    assert Keyboard().take(data) == data


def test_ssh_reads_the_configuration_as_it_is_meant(plan_of: PlanMaker, tmp_path: Path) -> None:
    if not shutil.which("ssh"):
        pytest.skip("no ssh here")
    folder = tmp_path / "a b%d'c\"d,e=f"
    plan = dataclasses.replace(plan_of(3, 2), job_dir=str(folder))
    config = tmp_path / "ssh_config"
    config.write_text(render_ssh_config(plan, ["python 3", "connect", "--cluster", str(folder)]))
    shown = subprocess.run(["ssh", "-F", config, "-G", "chgu5"], capture_output=True, text=True, check=True).stdout
    rows = dict(line.partition(" ")[::2] for line in shown.splitlines())
    assert rows["user"] == "charlie"
    assert rows["stricthostkeychecking"] in ("yes", "true")
    assert rows["identityfile"].replace("%%", "%") == f"{folder}/run/keys.{plan.cluster_id}/id_ed25519"
    proxy = rows["proxycommand"].replace("%%", "%").replace("%h", "chgu5")
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {proxy}"], capture_output=True, text=True, check=True).stdout
    assert words.splitlines() == ["python 3", "connect", "--cluster", str(folder), "chgu5"]
    other = subprocess.run(["ssh", "-F", config, "-G", "chgu6"], capture_output=True, text=True, check=True).stdout
    assert "proxycommand" not in other, "there is no guest 6"


def test_the_attaching_step_is_bent_by_no_job_we_are_in(plan_of: PlanMaker) -> None:
    plan = plan_of(2, 1)
    environment = [
        "SLURM_JOB_ID",
        "SLURM_NTASKS",
        "SRUN_DEBUG",
        "SBATCH_EXPORT",
        "SLURM_CONF",
        "PATH",
        "SLURMD_DEBUG",
    ]
    argv = make_attach_argv(plan, plan.host(2), ["task"], environment)
    assert argv[: argv.index("srun")] == [
        "env", "-u", "SBATCH_EXPORT", "-u", "SLURMD_DEBUG", "-u", "SLURM_JOB_ID", "-u", "SLURM_NTASKS",
        "-u", "SRUN_DEBUG",
    ]  # fmt: skip
    assert "--jobid=42" in argv
    assert "--nodelist=cn002" in argv
    assert "--overlap" in argv
