# SPDX-License-Identifier: Apache-2.0
"""`chslurm paths`: names of what is there, and none of what is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chslurm.cli.entry import run_command
from chslurm.cli.main import chslurm as umbrella
from chslurm.host import configfiles

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `chslurm paths ...`: (exit status, standard output, standard error)."""

    def invoke(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["chslurm", "paths", *words])
        return run_command(umbrella, "chslurm"), *capsys.readouterr()

    return invoke


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version as `misc/install` makes it, which we are in."""
    tree = tmp_path / "1.0"
    package = tree / "venv/lib/python3/site-packages/chslurm"
    for folder in ("guest", "sbatch-templates", "examples", "misc", "man", "completions"):
        (package / "data" / folder).mkdir(parents=True)
    for name in ("MANIFEST", "bin/chslurm", "libexec/chslurm"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    (tmp_path / "modulefiles").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tree / "venv"))
    monkeypatch.setattr("chslurm.__file__", str(package / "__init__.py"))
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/user/conf")
    monkeypatch.setattr(configfiles, "_site_file", Path("/etc/charliecloud/config.toml"))
    return tree


def test_all_of_a_version(run: Run, tree: Path) -> None:
    status, out, err = run("--json")
    assert (status, err) == (0, "")
    data = str(tree / "venv/lib/python3/site-packages/chslurm/data")
    assert json.loads(out) == {
        "programs": str(tree / "bin"),
        "python": sys.executable,
        "package": str(Path(data).parent),
        "boot-scripts": f"{data}/guest",
        "batch-templates": f"{data}/sbatch-templates",
        "examples": f"{data}/examples",
        "for-root": f"{data}/misc",
        "man": f"{data}/man",
        "completions": f"{data}/completions",
        "modulefiles": str(tree.parent / "modulefiles"),
        "modulefiles-tcl": None,
        "settings": "/etc/charliecloud/config.toml",
        "settings-own": "/home/user/conf/chslurm/config.toml",
        "settings-workstation": "/etc/charliecloud/config.sh",
        "settings-jobs": "/etc/charliecloud/network.conf",
    }
    lines = dict(line.split(maxsplit=1) for line in run()[1].splitlines())
    assert lines["modulefiles-tcl"] == "none"
    assert lines["boot-scripts"] == f"{data}/guest"


def test_settings_are_those_that_are_used(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configfiles, "_site_file", tmp_path / "config.toml")
    monkeypatch.setenv("CHSLURM_SITE_CONFIG", "/apps/chslurm.toml")
    assert run("settings") == (0, "/apps/chslurm.toml\n", "")
    (tmp_path / "config.toml").touch()
    assert run("settings") == (0, f"{tmp_path}/config.toml\n", "")


@pytest.mark.usefixtures("tree")
def test_a_wrong_name_of_the_settings_keeps_nobody_from_the_rest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHSLURM_SITE_CONFIG", "chslurm.toml")
    for name in ("batch-templates", "settings-own", "settings-jobs"):
        assert run(name)[::2] == (0, "")
    for words in (["settings"], [], ["--json"]):
        assert run(*words) == (64, "", "chslurm: CHSLURM_SITE_CONFIG: not a whole path; begin it with /\n")


@pytest.mark.usefixtures("tree")
def test_one_alone(run: Run) -> None:
    status, out, _ = run("batch-templates")
    assert (status, out.endswith("/sbatch-templates\n"), out.count("\n")) == (0, True, 1)
    assert run("modulefiles-tcl") == (64, "", "chslurm: NAME 'modulefiles-tcl': this installation has none\n")
    status, _, err = run("nonsense")
    assert status == 64
    assert "unknown; use one of programs, python, " in err


def test_what_is_named_is_there(run: Run) -> None:
    """Of whatever installation the tests run with."""
    found = json.loads(run("--json")[1])
    assert (Path(found["batch-templates"]) / "chjob.sh").is_file()
    assert (Path(found["boot-scripts"]) / "boot.sh").is_file()
    assert (Path(found["examples"]) / "mpihello/mpihello.sh").is_file()
    for name in ("slurm-prolog", "slurm-epilog", "network-w-linux"):
        assert (Path(found["for-root"]) / name).stat().st_mode & 0o111
