# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests of the documentation."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from reading import Reader
from realbox import Box, start_box
from terminals import start_screen, start_tmux
from workstation import start_workstation

TOP = Path(__file__).parent.parent.parent
DOCS = TOP / "docs"

_XRESOURCES = "XTerm*faceName: DejaVu Sans Mono\nXTerm*faceSize: 9\n"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader who has installed chslurm, in a home of his own with an image in ~/vm. Nothing may be left of him."""
    for name in ("CHSLURM_BOX", "CHSLURM_IMAGE"):
        if name not in os.environ:
            pytest.fail(f"{name} is not set; misc/test sets it")
    pictures = os.environ.get("CHSLURM_SCREENSHOTS")
    with ExitStack() as stack:
        box = stack.enter_context(start_box(os.environ["CHSLURM_BOX"], os.environ.get("CHSLURM_USER", "chuser")))
        stack.callback(_settle, box)
        home = _furnish(box)
        screen = stack.enter_context(start_screen(box.folder, "1300x500"))
        shutil.chown(screen.authority, box.folder.stat().st_uid)
        stack.enter_context(_world(box))
        tmux = stack.enter_context(start_tmux(tmp_path_factory.mktemp("tmux")))
        workstation = stack.enter_context(start_workstation(box, home))
        reader = Reader(box, tmux, screen, home, Path(pictures) if pictures else None, workstation)
        yield reader
        print("\n".join(reader.log))


def _settle(box: Box) -> None:
    """Clusters of a reader who gave up end with his terminals, which takes some seconds."""
    for _ in range(60):
        if not box.residue():
            return
        time.sleep(1)


@contextmanager
def _world(box: Box) -> Iterator[None]:
    """The public name server that pages ping: node `out` of the box stands for all that is outside."""
    address = ["ip", "address"], ["8.8.8.8/32", "dev", "lo"]
    assert box(*address[0], "replace", *address[1], node="out", user="root").returncode == 0
    try:
        yield
    finally:
        box(*address[0], "delete", *address[1], node="out", user="root")


def _furnish(box: Box) -> Path:
    home = box.folder / "home"
    shutil.copytree(TOP / "examples", home / "chslurm" / "examples")
    shutil.copytree(TOP / "sbatch-templates", home / "chslurm" / "sbatch-templates")
    (home / "chslurm" / "misc").mkdir()
    shutil.copy(TOP / "misc" / "network-w-linux", home / "chslurm" / "misc")
    (home / "vm").mkdir()
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", box.image, str(home / "vm" / "image.qcow2")], check=True)
    (home / ".Xdefaults").write_text(_XRESOURCES)
    owner = box.folder.stat()
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", str(home)], check=True)  # whatever the umask of the checkout was
    subprocess.run(["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", str(home)], check=True)
    return home
