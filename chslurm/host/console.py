# SPDX-License-Identifier: Apache-2.0
"""The console of one guest: all who look see what the guest prints, and each may type; a file keeps it.

The guest never waits for those who look: one that does not keep up is left behind and dropped. Nor does it wait for the
file: what nobody takes from QEMU in time (some 200 KB may wait) it throws away.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from chslurm.host.shortlog import ShortLog, record

_HISTORY_BYTES = 16384
"""What who comes later gets to see: some screens full."""

_BEHIND_BYTES = 1 << 20
"""Who has not read so much of what was printed is dropped."""


class Console:
    """Our end of the console, read from the beginning on. `recording` ends with QEMU, when all is in the log."""

    def __init__(self, end: socket.socket, log: ShortLog) -> None:
        self.on_size: Callable[[int, int], None] = lambda rows, columns: None
        self._history = bytearray()
        self._viewers: set[asyncio.StreamWriter] = set()
        self._input: asyncio.StreamWriter | None = None
        self._closed = False
        self.recording = asyncio.create_task(self._record(end, log))

    def attach(self, viewer: asyncio.StreamWriter) -> None:
        """Show `viewer` the latest output and all that follows; the end of the guest is the end of its connection."""
        viewer.write(bytes(self._history))
        if self._closed:
            viewer.close()
        else:
            self._viewers.add(viewer)

    def detach(self, viewer: asyncio.StreamWriter) -> None:
        """Show `viewer` no more."""
        self._viewers.discard(viewer)

    def type(self, data: bytes) -> None:
        """Type on the guest's keyboard. What a guest does not read is dropped, not kept for ever."""
        if self._input is not None and self._input.transport.get_write_buffer_size() < _BEHIND_BYTES:
            self._input.write(data)

    def say(self, text: str) -> None:
        """Show our own words to those who look, a line for each of `text`."""
        self._show("".join(f"{line}\r\n" for line in text.splitlines()).encode())

    def close(self) -> None:
        """Let go of all who look."""
        self._closed = True
        self.recording.cancel()
        if self._input is not None:
            self._input.close()
        for viewer in self._viewers:
            viewer.close()
        self._viewers.clear()

    async def _record(self, end: socket.socket, log: ShortLog) -> None:
        reader, self._input = await asyncio.open_connection(sock=end)
        await record(reader, log, self._show)

    def _show(self, data: bytes) -> None:
        self._history += data
        del self._history[:-_HISTORY_BYTES]
        for viewer in list(self._viewers):
            if viewer.transport.get_write_buffer_size() > _BEHIND_BYTES:
                self._viewers.discard(viewer)
                viewer.transport.abort()
            else:
                viewer.write(data)
