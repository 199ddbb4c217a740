# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests with a real SLURM and real guests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from realbox import Box


@pytest.fixture(scope="session")
def box_program() -> str:
    for name in ("CHSLURM_BOX", "CHSLURM_IMAGE"):
        if name not in os.environ:
            pytest.fail(f"{name} is not set; misc/test sets it")
    return os.environ["CHSLURM_BOX"]


@pytest.fixture
def box(box_program: str, request: pytest.FixtureRequest) -> Iterator[Box]:
    """The box with an empty folder of the user's. Afterwards nothing may be left on any node."""
    user = os.environ.get("CHSLURM_USER", "chuser")
    make = "d=$(mktemp -d ~/test.XXXXXX) && echo $d"
    folder = subprocess.run(
        [box_program, "run", "--user", user, "--", "sh", "-c", make], capture_output=True, text=True, check=True
    ).stdout.strip()
    box = Box(box_program, os.environ["CHSLURM_IMAGE"], user, Path(folder))
    yield box
    left = box.residue()
    subprocess.run(["rm", "-r", "--", folder], check=True)
    assert not left
