# SPDX-License-Identifier: Apache-2.0
"""An empty picture is told from one that shows something."""

from __future__ import annotations

import pytest
from pictures import measure_ink
from PIL import Image


def test_ink_is_what_is_not_background() -> None:
    empty = Image.new("RGB", (100, 100), "white")
    assert measure_ink(empty) == 0
    written = empty.copy()
    written.paste((0, 0, 0), (0, 0, 50, 10))
    assert measure_ink(written) == pytest.approx(0.05)
