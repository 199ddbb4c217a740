# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests with a real SLURM and real guests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from realbox import Box, choose_user, start_box


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest that is a file of its own, so that no worker has it to do when the others are done.

    End with those that have to be done within SLURM's KillWait: then nothing else runs beside them any more.
    """
    items.sort(key=lambda item: item.path.name != "test_wireguard.py")
    items.sort(key=lambda item: "kill_wait" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def box_program() -> str:
    for name in ("CHSLURM_BOX", "CHSLURM_IMAGE"):
        if name not in os.environ:
            pytest.fail(f"{name} is not set; misc/test sets it")
    return os.environ["CHSLURM_BOX"]


@pytest.fixture
def box(box_program: str) -> Iterator[Box]:
    """The box with an empty folder of the user's. Afterwards nothing may be left on any node."""
    with start_box(box_program, choose_user()) as box:
        yield box
