# SPDX-License-Identifier: Apache-2.0
"""The console of one guest: all who look see what the guest prints, and each may type. QEMU writes the file itself.

The guest never waits for those who look: one that does not keep up is left behind and dropped. What nobody takes from
QEMU in time (who prints so much that some 200 KB wait) it throws away, and writes it into no file.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from chslurm.host.shortlog import ShortLog

_HISTORY_BYTES = 16384
"""What who comes later gets to see: some screens full."""

_BEHIND_BYTES = 1 << 20
"""Who has not read so much of what was printed is dropped."""


class Console:
    """Our end of the console; reads from the beginning on. By what comes here we know how long QEMU's file is."""

    def __init__(self, end: socket.socket, log: ShortLog) -> None:
        self.on_size: Callable[[int, int], None] = lambda rows, columns: None
        self._history = bytearray()
        self._viewers: set[asyncio.StreamWriter] = set()
        self._input: asyncio.StreamWriter | None = None
        self._closed = False
        self._task = asyncio.create_task(self._read(end, log))

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
        self._task.cancel()
        if self._input is not None:
            self._input.close()
        for viewer in self._viewers:
            viewer.close()
        self._viewers.clear()

    async def _read(self, end: socket.socket, log: ShortLog) -> None:
        reader, self._input = await asyncio.open_connection(sock=end)
        try:
            while data := await reader.read(65536):
                self._show(data)
                await log.grow(len(data))
        except OSError:  # QEMU has ended
            return

    def _show(self, data: bytes) -> None:
        self._history += data
        del self._history[:-_HISTORY_BYTES]
        for viewer in list(self._viewers):
            if viewer.transport.get_write_buffer_size() > _BEHIND_BYTES:
                self._viewers.discard(viewer)
                viewer.transport.abort()
            else:
                viewer.write(data)
