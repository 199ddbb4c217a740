# SPDX-License-Identifier: Apache-2.0
"""Streams that pass through a relay, between real sockets on the loopback."""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from chslurm.host.relay import StreamRelay

Server = Callable[[Reader, Writer], Awaitable[None]]


async def echo(reader: Reader, writer: Writer) -> None:
    """Answer when all has come: so one direction ends before the other."""
    with closing(writer):
        writer.write(await reader.read(-1))
        await writer.drain()


async def hold(reader: Reader, writer: Writer) -> None:
    with closing(writer):
        writer.write(b"here")
        await reader.read(-1)


def relayed(
    server: Server | None, use: Callable[[int], Awaitable[None]], *, most: int = 4, lasts_s: float = 5.0
) -> None:
    """Run `use` with the port of a relay to `server`; None is a port where nobody listens."""

    async def run() -> None:
        target = socket.create_server(("127.0.0.1", 0))
        port = target.getsockname()[1]
        if server:
            listening = await asyncio.start_server(server, sock=target)
        else:
            target.close()
        listener = socket.create_server(("127.0.0.1", 0))
        to_server = lambda: asyncio.open_connection("127.0.0.1", port)  # noqa: E731
        relay = StreamRelay(listener, to_server, most=most, lasts_s=lasts_s)
        await use(listener.getsockname()[1])
        relay.close()
        if server:
            listening.close()
        await asyncio.sleep(0.1)  # connections that were closed are so a moment later

    asyncio.run(asyncio.wait_for(run(), 20))


def test_megabytes_pass_both_ways_and_each_way_ends_by_itself() -> None:
    sent = bytes(range(256)) * 20_000

    async def use(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent
        writer.close()

    relayed(echo, use)


def test_without_a_server_the_connection_is_reset() -> None:
    async def use(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer), pytest.raises(ConnectionResetError):
            await reader.read(-1)

    relayed(None, use)


def test_more_connections_than_allowed_are_reset_until_others_end() -> None:
    async def use(port: int) -> None:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        assert [await reader.readexactly(4) for reader, _ in held] == [b"here"] * 4
        fifth, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer), pytest.raises(ConnectionResetError):
            await fifth.read(-1)
        held[0][1].write_eof()
        assert await held[0][0].read(-1) == b""
        sixth, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await sixth.readexactly(4) == b"here"
        for closed in (writer, *(writer for _, writer in held)):
            closed.close()

    relayed(hold, use)


def test_a_connection_may_be_given_a_time() -> None:
    async def use(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer), pytest.raises(ConnectionResetError):
            await reader.read(-1)

    relayed(hold, use, lasts_s=0.2)
