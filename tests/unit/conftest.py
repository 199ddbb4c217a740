# SPDX-License-Identifier: Apache-2.0
"""What tests of the deciding modules share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import pytest

from chslurm.limits import NO_LIMITS
from chslurm.request import NOTHING_ASKED, Request, make_request

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="session")
def request_of() -> Callable[..., Request]:
    """Return a function that makes a request from the options that differ from the defaults."""

    def make(**options: Any) -> Request:
        limits = options.pop("limits", NO_LIMITS)
        return make_request(
            {**NOTHING_ASKED, "image": "image.qcow2", **options},  # type: ignore[typeddict-item]
            PurePath("/home/user"),
            limits,
        )

    return make


@pytest.fixture(scope="session")
def golden() -> Callable[[str, str], None]:
    """Return a function that compares a text with the file of this name in tests/golden."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("ACCEPT_GOLDEN"):
            path.write_text(text)
        expected = path.read_text() if path.exists() else ""
        assert text == expected, f"tests/golden/{name} differs; to accept: ACCEPT_GOLDEN=1 pytest tests/unit"

    return compare
