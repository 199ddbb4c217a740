# SPDX-License-Identifier: Apache-2.0
"""Frames sent and seen at TAPs by whoever may open them, which is all that a guest can do: no guest is booted."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress

_HEADER = bytes(10)
"""Of virtio, in front of each frame, as root has made the TAPs: no checksum is left to others, nothing is cut later."""

_FRAME_BYTES = 65536 + 64
_LEAST_FRAME = 60


class TapTrial:
    """TAPs that are open: one sends, and all see."""

    def __init__(self, taps: Sequence[int]) -> None:
        self._taps = tuple(taps)

    def send(self, tap: int, frame: bytes) -> None:
        """Send a frame as the guest at this TAP would. Raises OSError."""
        os.write(self._taps[tap], _HEADER + frame.ljust(_LEAST_FRAME, b"\0"))

    def look(self) -> list[tuple[int, bytes]]:
        """Return what has come to any TAP up to now, with its place."""
        found = []
        for place, tap in enumerate(self._taps):
            with suppress(BlockingIOError):
                while True:
                    found.append((place, os.read(tap, _FRAME_BYTES)[len(_HEADER) :]))
        return found

    def look_for(self, seconds: float) -> list[tuple[int, bytes]]:
        """Return what comes in so many seconds."""
        found, until_s = self.look(), time.monotonic() + seconds
        while time.monotonic() < until_s:
            time.sleep(0.01)
            found += self.look()
        return found
