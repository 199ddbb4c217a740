# SPDX-License-Identifier: Apache-2.0
"""What tests of the deciding modules share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import pytest

from chslurm.request import RawOptions, Request, make_request

GOLDEN = Path(__file__).parent.parent / "golden"

OPTIONS: RawOptions = {
    "image": "image.qcow2",
    "arguments": (),
    "guests": None,
    "job": None,
    "interactive": False,
    "dir": (),
    "jobdir": None,
    "jobbase": None,
    "jobname": None,
    "cores": None,
    "ram": None,
    "my_size": False,
    "cleanup": False,
    "nosync": False,
    "time_limit": None,
    "tmp_dir": None,
    "tmp_size": None,
    "accel": "auto",
    "boot_timeout": None,
    "dry_run": False,
    "explain": False,
}


@pytest.fixture(scope="session")
def request_of() -> Callable[..., Request]:
    """Return a function that makes a request from the options that differ from the defaults."""

    def make(**options: Any) -> Request:
        return make_request({**OPTIONS, **options}, PurePath("/home/user"))  # type: ignore[typeddict-item]

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
