# SPDX-License-Identifier: Apache-2.0
"""Module files with the real Lmod and the real Environment Modules: loaded, switched, unloaded, moved, linked to."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fakewheel import make_fake_wheel
from sitemodules import MODULEFILES, install, make_argv, set_up

pytestmark = pytest.mark.kernel

TOOLS = pytest.mark.parametrize("tool", list(MODULEFILES))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This version, installed without a network, and a later one that is quick to make; it is the default."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "modules"
    folder.mkdir(exist_ok=True)
    prefix = folder / "chslurm"
    with open(folder / "lock", "w") as file:  # the first of pytest's workers makes it for all
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (prefix / "99.0").exists():
            later = make_fake_wheel(folder / "wheels", "99.0")
            install(prefix, f"--wheelhouse={set_up('need_wheelhouse')}")
            install(prefix, "--default", f"--wheel={later}", f"--wheelhouse={later.parent}")
    return prefix


@pytest.fixture
def prefix(model: Path, tmp_path: Path) -> Path:
    """A copy, which is as good as what was installed there."""
    return Path(shutil.copytree(model, tmp_path / "site" / "chslurm", symlinks=True))


def shell(tool: str, script: str, *, kind: str = "bash", **environment: str) -> str:
    """Run a script in a login shell that has the tool, and return all that it prints."""
    variables = [f"{key}={value}" for key, value in {"HOME": "/nonexistent", "USER": "root", **environment}.items()]
    argv = make_argv(tool, ["env", "-i", "PATH=/usr/bin:/bin", *variables, kind, "-l", "-c", script])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def use(prefix: Path, tool: str) -> str:
    return f"module use '{prefix}/{MODULEFILES[tool]}'\n"


@TOOLS
def test_loaded_and_unloaded(tool: str, prefix: Path) -> None:
    (prefix / "image.qcow2").touch()
    script = use(prefix, tool) + (
        "env | sort >before; module load chslurm\n"
        "echo version: $(chrun); echo image: $CHSLURM_IMAGE; echo path: ${PATH%%:*}\n"
        "echo pages: $(man -w chrun) $(man -w ls)\n"
        "module unload chslurm\n"
        "echo left: $(type chrun 2>&1); env | sort >after\n"
    )
    text = shell(tool, f"cd '{prefix.parent}'\n{script}")
    assert "version: chrun 99.0\n" in text, text
    assert f"image: {prefix}/image.qcow2\n" in text
    assert f"path: {prefix}/99.0/bin\n" in text
    assert re.search(rf"^pages: {prefix}/99\.0/share/man/man1/chrun\.1 /usr/share/man/man1/ls\.1\.gz$", text, re.M)
    assert re.search(r"^left: .*chrun.*not found$", text, re.M)
    kept = re.compile(r"_=|__LMOD|_ModuleTable|__MODULES|LOADEDMODULES=$|_LMFILES_=$|MANPATH=:*$|LMOD_")
    before, after = ((prefix.parent / name).read_text().splitlines() for name in ("before", "after"))
    changed = {line.rstrip(":") for line in before if not kept.match(line)} ^ {
        line.rstrip(":") for line in after if not kept.match(line)
    }
    assert changed == set()


@TOOLS
def test_an_older_version_with_completion(tool: str, prefix: Path) -> None:
    """The whole program, with PYTHONPATH as another module may have set it."""
    older = next(path.name for path in prefix.glob("0.*"))
    switch = "module load chslurm\n" if tool == "lmod" else "module switch chslurm\n"
    script = use(prefix, tool) + (
        f"module load chslurm/{older}; chrun --version; complete -p chrun chslurm; type -t _chrun_completion\n"
        f"man -w chrun chslurm-job; chslurm paths modulefiles\n"
        f"module whatis chslurm/{older}; module help chslurm/{older}\n"
        f"module avail chslurm; {switch}chrun; module unload chslurm; complete -p chrun\n"
    )
    text = shell(tool, script, PYTHONPATH="/nowhere", CHSLURM_IMAGE="/my/own")
    assert f"chrun {older}\n" in text, text
    assert "-F _chrun_completion chrun\n" in text
    assert "\nfunction\n" in text
    assert f"{prefix}/{older}/share/man/man1/chrun.1\n{prefix}/{older}/share/man/man7/chslurm-job.7\n" in text
    assert f"{prefix}/modulefiles\n" in text
    assert "Private clusters of virtual machines as ordinary SLURM jobs" in text
    assert "chrun starts a cluster of virtual machines" in text
    assert re.search(r"99\.0 ?\((D|default)\)", text)
    assert "\nchrun 99.0\n" in text
    assert "chrun: no completion specification" in text


@TOOLS
def test_one_version_at_a_time_and_the_users_own_image(tool: str, prefix: Path) -> None:
    (prefix / "image.qcow2").touch()
    older = next(path.name for path in prefix.glob("0.*"))
    script = use(prefix, tool) + (
        f"module load chslurm/{older}; module load chslurm/99.0\n"
        "echo paths: $PATH; echo image: $CHSLURM_IMAGE; module unload chslurm; echo still: $CHSLURM_IMAGE\n"
    )
    text = shell(tool, script, CHSLURM_IMAGE="/my/own")
    assert text.split("paths: ")[1].splitlines()[0].count(str(prefix)) == 1, text
    assert "image: /my/own\nstill: /my/own\n" in text


@TOOLS
@pytest.mark.parametrize("kind", ["bash", "sh"])
def test_moved_and_linked_to(tool: str, kind: str, prefix: Path, tmp_path: Path) -> None:
    """The site's own folder of module files leads to ours, by a link to the folder or to a file."""
    moved = tmp_path / "moved, with spaces"
    prefix.rename(moved)
    ours = moved / MODULEFILES[tool] / "chslurm"
    (tmp_path / "folders").mkdir()
    (tmp_path / "folders/chslurm").symlink_to(ours)
    (tmp_path / "files/chslurm").mkdir(parents=True)
    name = "99.0.lua" if tool == "lmod" else "99.0"
    (tmp_path / "files/chslurm" / name).symlink_to(ours / name)
    profile = "" if kind == "bash" else ". /etc/profile\n"
    for folder in (ours.parent, tmp_path / "folders", tmp_path / "files"):
        script = f"{profile}module use '{folder}'; module load chslurm; command -v chrun; chrun"
        assert f"{moved}/99.0/bin/chrun\nchrun 99.0\n" in shell(tool, script, kind=kind)
