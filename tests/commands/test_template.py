# SPDX-License-Identifier: Apache-2.0
"""`chslurm template` as users type it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chslurm.cli.entry import run_command
from chslurm.cli.main import chslurm
from chslurm.host.files import find_data

TOP = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["chslurm", "template", *words])
    return run_command(chslurm, "chslurm")


def test_templates_are_listed_and_shown(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "list") == 0
    shown = dict(line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines()[1:])
    assert shown.keys() == {path.stem for path in (TOP / "sbatch-templates").iterdir()}
    assert shown["chmany"] == "Many small guests on each node"
    for name in ("charray", "charray.sh"):
        assert run(monkeypatch, "show", name) == 0
        assert capfd.readouterr().out == (TOP / "sbatch-templates" / "charray.sh").read_text()
    assert run(monkeypatch, "show", "../guest/boot") == 64
    assert "template '../guest/boot': unknown; use one of charray, " in capfd.readouterr().err


def test_a_script_is_written_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    script = folder / "chmpi.sh"
    assert run(monkeypatch, "new", "chmpi", "--image", "i.qcow2", "--", "./a.out", "-o", "x y") == 0
    lines = capfd.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == ("chmpi.sh: written", "start it with: sbatch chmpi.sh")
    assert script.stat().st_mode & 0o7777 == 0o755
    text = script.read_text()
    assert f"IMAGE={folder}/i.qcow2\n" in text
    assert "ARGUMENTS=(./a.out -o 'x y')\n" in text
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0

    assert run(monkeypatch, "new", "chmpi", "--nodes", "9") == 64
    assert capfd.readouterr().err == (
        "chslurm: chmpi.sh: is there already; choose another name with -o, or replace it with --force\n"
    )
    assert script.read_text() == text
    capfd.readouterr()
    assert run(monkeypatch, "new", "chmpi", "--nodes", "9", "--force") == 0
    lines = capfd.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == (
        "chmpi.sh: written", "start it with: CHSLURM_IMAGE=/data/vm/image.qcow2 sbatch chmpi.sh",
    )  # fmt: skip
    assert "#SBATCH --nodes=9\n" in script.read_text()

    os.symlink("/nowhere", "link.sh")
    assert run(monkeypatch, "new", "chjob", "-o", "link.sh") == 64
    assert run(monkeypatch, "new", "chjob", "-o", "no/such/folder.sh") == 70
    assert "can't write no/such/folder.sh: No such file or directory" in capfd.readouterr().err


def test_examples_that_are_the_sites_have_to_be_ones_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    """A job writes beside its data."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("CHSLURM_IMAGE", "/sites.qcow2")
    assert run(monkeypatch, "new", "chjob") == 0
    advice = f"have them here: cp -r {find_data('examples')} ."
    told = f"still from the examples: JOB, DATA; {advice}\nstart it with: sbatch chjob.sh\n"
    assert capfd.readouterr().out.endswith(told)
    assert "\nDATA=examples/mpihello/data\n" in (folder / "chjob.sh").read_text()


def test_an_image_that_settings_name_is_enough(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path, no_settings: Path
) -> None:
    settings = no_settings / "user/chslurm/config.toml"
    settings.parent.mkdir(parents=True, mode=0o755)
    settings.write_text('image = "/my.qcow2"')
    assert run(monkeypatch, "new", "chjob") == 0
    assert capfd.readouterr().out.endswith("\nstart it with: sbatch chjob.sh\n")


@pytest.mark.parametrize("path", sorted((TOP / "sbatch-templates").iterdir()), ids=lambda path: path.stem)
@pytest.mark.parametrize("image", ["", "/a b.qcow2"])
def test_a_template_names_an_image_only_when_it_has_one(folder: Path, path: Path, image: str) -> None:
    """Otherwise it is the launcher's to find one, or to say that there is none."""
    (folder / "chrun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "salloc").write_text('#!/bin/sh\nuntil [ "$1" = chrun ]; do shift; done\nexec "$@"\n')
    for name in ("chrun", "salloc"):
        (folder / name).chmod(0o755)
    text = path.read_text()
    assert text.count("\nIMAGE=\n") == 1
    script = text.replace("\nIMAGE=\n", f"\nIMAGE={shlex.quote(image)}\n")
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": ".", "SLURM_JOB_ID": "42",
        "SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "0",
    }  # fmt: skip
    argv = ["bash", "-c", script]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=20)
    words = done.stdout.splitlines()
    data = words.index("--dir") + 2
    rest = words[data:]
    assert rest[:1] == [image] if image else rest[:1] in ([], ["--"])


@pytest.mark.parametrize(("status", "outcome"), [(85, (0, "requeue 42\n")), (0, (0, "")), (3, (3, ""))])
def test_the_status_of_a_job_that_ends_right_after_a_signal_counts(
    folder: Path, status: int, outcome: tuple[int, str]
) -> None:
    """The job is gone before the script looks whether it still runs."""
    fakes = {"chrun": f"trap 'exit {status}' USR1\ntouch ready\nwhile :; do sleep 0.01; done", "scontrol": 'echo "$@"'}
    for name, script in fakes.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "slow").write_text('kill() { builtin kill "$@" && sleep 0.5; }\n')
    variables = {"BASH_ENV": "slow", "SLURM_SUBMIT_DIR": ".", "SLURM_JOB_ID": "42"}
    with subprocess.Popen(
        ["bash", TOP / "sbatch-templates/chrequeue.sh"],
        env={"PATH": f"{folder}:/usr/bin:/bin", **variables},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while not (folder / "ready").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        try:
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out) == outcome
