# SPDX-License-Identifier: Apache-2.0
"""Where the user reaches the guests of one host while they run: the host's end of what attaches there."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import cast

from chslurm.errors import ChslurmError
from chslurm.host.attachpoint import read_peer_uid
from chslurm.host.console import Console
from chslurm.host.relay import Stream, join_streams, serve
from chslurm.messages import (
    ATTACH_MAX_BYTES,
    AttachKind,
    AttachReply,
    AttachRequest,
    decode_attach_request,
    decode_console_input,
    encode,
)

_REQUEST_S = 10.0
"""How long somebody may take to say what he wants."""


class AttachServer:
    """Serves whoever comes and is the user; made in the event loop."""

    def __init__(
        self,
        name: str,
        consoles: Mapping[int, Console],
        connect: Callable[[int, int], Awaitable[Stream]],
        stop: Callable[[], None],
    ) -> None:
        """Listen. `consoles` are those of the guests by number, filled as they start; `connect` takes guest and port.

        Raises ChslurmError when somebody else has the name.
        """
        self._consoles = consoles
        self._connect = connect
        self._stop = stop
        self._connections: set[asyncio.Task[None]] = set()
        self._guests: dict[int, set[asyncio.Task[None]]] = {}  # those of them that lead to a guest
        self._task = asyncio.create_task(self._accept(_listen(name)))

    def let_go(self, guest: int) -> None:
        """End the connections to a guest that is gone: killed, it has not said goodbye."""
        for task in self._guests.get(guest, set()):
            task.cancel()

    def close(self) -> None:
        """Take nobody more, and let go of all who are there."""
        for task in (self._task, *self._connections):
            task.cancel()

    @contextmanager
    def _of_guest(self, guest: int) -> Iterator[None]:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        tasks = self._guests.setdefault(guest, set())
        tasks.add(task)
        try:
            yield
        finally:
            tasks.discard(task)

    async def _accept(self, listener: socket.socket) -> None:
        await serve(await asyncio.start_unix_server(self._welcome, sock=listener, limit=ATTACH_MAX_BYTES))

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections.add(task)
        try:
            if read_peer_uid(writer.get_extra_info("socket")) == os.getuid():
                await self._serve(reader, writer)
        except (OSError, ValueError, TimeoutError):  # he went away, or said what is no line
            return
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_REQUEST_S):
            request = decode_attach_request(await reader.readline())
        try:
            if request is None:
                raise ChslurmError("can't understand the request", hint="is that another version of chslurm?")
            await self._grant(request, reader, writer)
        except ChslurmError as error:
            writer.write(encode(AttachReply(error=str(error))))
            await writer.drain()

    async def _grant(self, request: AttachRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match request.kind:
            case AttachKind.CONSOLE:
                if (console := self._consoles.get(request.guest)) is None:
                    raise ChslurmError(f"can't show the console of guest {request.guest}: it does not run here")
                writer.write(encode(AttachReply()))
                await _show_console(console, reader, writer)
            case AttachKind.CONNECT:
                guest = await self._connect(request.guest, request.port)
                writer.write(encode(AttachReply()))
                with closing(guest[1]), self._of_guest(request.guest):
                    await join_streams((reader, writer), guest)
            case AttachKind.STOP:
                self._stop()
                writer.write(encode(AttachReply()))
                await reader.read()  # until he goes, or we do


def _listen(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(name)
    except OSError as error:
        listener.close()
        raise ChslurmError(f"can't listen for the user of this cluster: {error.strerror}") from error
    listener.listen()
    return listener


async def _show_console(console: Console, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    console.attach(writer)
    try:
        while line := await reader.readline():
            if (said := decode_console_input(line)) is None:
                return
            if said.rows and said.columns:
                console.on_size(said.rows, said.columns)
            console.type(said.typed.encode("latin-1", errors="ignore"))
    finally:
        console.detach(writer)
