# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests with a real kernel: a lab that is gone after the test, and a check that it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kernel)
            if os.getuid() != 0:
                item.add_marker(pytest.mark.skip(reason="only root can make hosts out of namespaces"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab
