# SPDX-License-Identifier: Apache-2.0
"""Pictures of windows: taken, looked at for whether they show anything, and kept where CHSLURM_SCREENSHOTS says."""

from __future__ import annotations

import os
import time
from pathlib import Path

from PIL import Image, ImageGrab
from terminals import ROWS, Screen

_MAX_BYTES = 100_000
_SHOWN_ROWS = 20
_COLOURS = 16
_LEAST_INK, _MOST_INK = 0.01, 0.5
"""How much of a picture of terminals is not background: of an empty window next to nothing, of text a few per cent."""


def take_picture(screen: Screen, window: str | None, name: str, folder: Path | None) -> None:
    """Take a picture of a window's latest lines, or of the screen. Fails when there is nothing to be seen on it."""
    time.sleep(0.5)  # xterm draws what it has read
    os.environ["XAUTHORITY"] = str(screen.authority)
    whole = ImageGrab.grab(xdisplay=screen.display)
    left, top, right, bottom = screen.find_place(window) if window else whole.getbbox() or (0, 0, 1, 1)
    picture = whole.crop((left, bottom - (bottom - top) * _SHOWN_ROWS // ROWS if window else top, right, bottom))
    small = picture.quantize(_COLOURS, dither=Image.Dither.NONE)
    ink = measure_ink(small)
    assert _LEAST_INK < ink < _MOST_INK, f"{name}: {ink:.3f} of it is not background"
    if folder:
        small.save(folder / name, optimize=True)
        assert (folder / name).stat().st_size < _MAX_BYTES


def measure_ink(picture: Image.Image) -> float:
    """Return how much of a picture has another colour than most of it."""
    counts = [count for count, _ in picture.getcolors(maxcolors=1 << 24) or []]
    return 1.0 - max(counts) / sum(counts)
