# SPDX-License-Identifier: Apache-2.0
"""Names for workstation guests: a relay between the guests' gateway and the resolver of this host.

The listening sockets are of the guests' namespace, the asking ones of the host's: so a resolver on the host's loopback
(127.0.0.53 and the like) works, whatever joins the namespace to the outside. Queries are passed on, never read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

from chslurm.host.relay import Stream, StreamRelay

_ANSWER_TIMEOUT_S = 5.0
_MAX_QUERIES = 512  # at once; what is beyond is dropped, as a busy name server would
_MAX_TCP = 64
_STREAM_LASTS_S = 20.0


class NameRelay:
    """Relays until `close`. Make it in a running event loop."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, resolvers: list[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._udp = udp
        self._resolvers = resolvers
        self._family = _family(resolvers[0])
        self._asking: set[socket.socket] = set()
        udp.setblocking(False)
        self._loop.add_reader(udp, self._take_query)
        self._streams = StreamRelay(tcp, self._connect, most=_MAX_TCP, lasts_s=_STREAM_LASTS_S)  # for long answers

    def close(self) -> None:
        """Stop and close every socket."""
        self._loop.remove_reader(self._udp)
        self._udp.close()
        self._streams.close()
        for asking in list(self._asking):
            self._forget(asking)

    def _take_query(self) -> None:
        with contextlib.suppress(OSError):
            query, guest = self._udp.recvfrom(65535)
            if len(self._asking) < _MAX_QUERIES:
                self._ask(query, guest)

    def _ask(self, query: bytes, guest: tuple[str, int]) -> None:
        """Ask all resolvers, as they are few; the first answer counts."""
        asking = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._asking.add(asking)
        self._loop.add_reader(asking, self._pass_answer, asking, guest)
        self._loop.call_later(_ANSWER_TIMEOUT_S, self._forget, asking)
        for resolver in self._resolvers:
            with contextlib.suppress(OSError):
                asking.sendto(query, (resolver, 53))

    def _pass_answer(self, asking: socket.socket, guest: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            answer, sender = asking.recvfrom(65535)
            if sender[0] in self._resolvers and sender[1] == 53:
                self._udp.sendto(answer, guest)
                self._forget(asking)

    def _forget(self, asking: socket.socket) -> None:
        if asking in self._asking:
            self._asking.remove(asking)
            self._loop.remove_reader(asking)
            asking.close()

    async def _connect(self) -> Stream:
        for resolver in self._resolvers[:-1]:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(resolver, 53)
        return await asyncio.open_connection(self._resolvers[-1], 53)


def read_resolvers(path: Path = Path("/etc/resolv.conf")) -> list[str]:
    """Return the resolvers of this host, at most three and all IPv4 or all IPv6.

    When none is named it is the loopback, as resolv.conf(5) says.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    named = [word[1] for word in words if len(word) >= 2 and word[0] == "nameserver"]
    named.sort(key=_family)  # IPv4 first, else in order
    return [resolver for resolver in named if _family(resolver) is _family(named[0])][:3] or ["127.0.0.1"]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
