# SPDX-License-Identifier: Apache-2.0
"""Streams passed on between a listening socket of the guests' namespace and a server on this host.

Guests of a workstation reach the host by this and by nothing else: its resolver (see `nameserver`) and its own ssh
server, where they have to authenticate as anybody has. Bytes are passed on, never read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable

SSH_PORT = 22

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CONNECT_TIMEOUT_S = 5.0
_LAST_WORDS_S = 30.0
"""A side that has not ended so long after the other is dead, or has forgotten us."""

_MOST_SSH = 64  # logins at once from all guests of this host


class StreamRelay:
    """Relays until `close`. Make it in a running event loop.

    `connect` opens the way to the server; when it raises OSError the client's connection is reset. More than `most`
    connections at once are reset, too. `lasts_s` ends each, None does not.
    """

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[], Awaitable[Stream]],
        *,
        most: int,
        lasts_s: float | None = None,
    ) -> None:
        self._connect = connect
        self._most = most
        self._lasts_s = lasts_s
        self._open = 0
        self._task = asyncio.get_running_loop().create_task(self._serve(listener))

    def close(self) -> None:
        """Stop listening; connections end with the event loop."""
        self._task.cancel()

    async def _serve(self, listener: socket.socket) -> None:
        await serve(await asyncio.start_server(self._pass_on, sock=listener, backlog=self._most))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= self._most:
                async with asyncio.timeout(self._lasts_s):
                    await self._pass_both_ways(reader, writer)
                    return
        except OSError:  # TimeoutError is one, too
            pass
        finally:
            self._open -= 1
            _reset(writer)

    async def _pass_both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            up_reader, up_writer = await self._connect()
        with contextlib.closing(up_writer):
            await join_streams((reader, writer), (up_reader, up_writer))
        writer.close()


def relay_ssh(listener: socket.socket) -> StreamRelay:
    """Pass connections on to the ssh server of this host; without one they are reset."""
    return StreamRelay(listener, lambda: asyncio.open_connection("127.0.0.1", SSH_PORT), most=_MOST_SSH)


async def serve(server: asyncio.Server) -> None:
    """Serve until cancelled, and wait for nobody then: from Python 3.12 on `async with` would, for all connections."""
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()


async def join_streams(one: Stream, other: Stream) -> None:
    """Pass on both ways until both have ended; when one has, the other may take some seconds more to say its last."""
    ways = [asyncio.create_task(_copy(one[0], other[1])), asyncio.create_task(_copy(other[0], one[1]))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(ways, timeout=_LAST_WORDS_S)
    finally:
        for way in ways:
            way.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass one way on until its end; what is still under way the other way is not lost by that."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection at once, as if nobody listened; one that was closed in order stays so."""
    if not writer.is_closing():
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
