# SPDX-License-Identifier: Apache-2.0
"""The largest IP packet that passes between two hosts, found by sending some.

Probes are UDP datagrams with "don't fragment" set that ignore what the kernel believes about the path, so a router that
silently drops is found too. Both hosts use the socket that keeps their tunnel port: a probe takes the tunnel's own way.
Every probe and answer carries the cluster's token: what strangers send is ignored, and a stranger gets no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
import struct

from chslurm.errors import ChslurmError
from chslurm.tunnel import Peer

COMMON_MTUS = (9216, 9000, 8950, 8000, 4470, 4000, 2044, 1500, 1492, 1480, 1450, 1420, 1400, 1380, 1280)
_SMALLEST = 576
"""Bytes every IPv4 host accepts (RFC 791): no answer to this means no path, not a narrow one."""

_HEADERS = 28  # IPv4 and UDP
_COPIES = 2  # of each probe: one lost packet is no narrow path
_FAN = 32  # sizes tried at once
_GRACE_S = 0.04  # for stragglers, after the smallest, which is sent last, has been answered
_REPEAT_S = 0.5  # before all is sent again
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE, _IP_MTU = 10, 3, 14
_PROBE, _ANSWER = 1, 2
_FORM = struct.Struct("!4s16sBIH")  # magic, token, kind, round, size of the IP packet
_MAGIC = b"chPM"


class PathProbe:
    """Answers the probes of others on `reserved` and sends its own, until `close`. Make it in a running event loop.

    `token` is 16 bytes that only the hosts of this cluster know. The socket is not closed.
    """

    def __init__(self, reserved: socket.socket, token: bytes) -> None:
        self._socket = reserved
        self._token = token
        self._round = 0
        self._passed: set[int] = set()
        self._news = asyncio.Event()
        reserved.setblocking(False)
        reserved.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        asyncio.get_running_loop().add_reader(reserved, self._receive)

    def close(self) -> None:
        """Stop answering."""
        asyncio.get_running_loop().remove_reader(self._socket)

    async def measure(self, peer: Peer, patience_s: float) -> int:
        """Return the path MTU to `peer` in bytes. Raises ChslurmError when it does not answer for `patience_s`.

        One round trip when the path is as wide as our interface; otherwise a few rounds, each of many sizes at once.
        """
        candidate = find_link_mtu(peer.address)
        low = await self._try(peer, [candidate], patience_s)
        if low == candidate:
            return candidate
        high = candidate  # has not passed
        sizes = [size for size in COMMON_MTUS if low < size < high]
        while high - low > 1:
            sizes = sizes or _spread(low, high)
            low = max(low, await self._try(peer, sizes, patience_s))
            high = min([size for size in sizes if size > low] + [high])
            sizes = []
        return low

    async def _try(self, peer: Peer, sizes: list[int], patience_s: float) -> int:
        """Return the largest of `sizes` that passes, or the smallest size there is."""
        self._round += 1
        self._passed.clear()
        await self._reach(peer, sizes, patience_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await self._wait_for(max(sizes))
        return max(self._passed)

    async def _reach(self, peer: Peer, sizes: list[int], patience_s: float) -> None:
        """Send probes until the smallest is answered: a host under load may take seconds to come to it."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + patience_s
        while loop.time() < deadline_s:
            for size in [*sorted(sizes, reverse=True), _SMALLEST] * _COPIES:
                self._send(_PROBE, self._round, size, size, (peer.address, peer.udp_port))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_REPEAT_S, deadline_s - loop.time())):
                    await self._wait_for(_SMALLEST)
                return
        raise ChslurmError(
            f"host {peer.host_number} ({peer.address}) did not answer on UDP port {peer.udp_port} for {patience_s:g} s",
            hint="UDP between the nodes must not be filtered",
        )

    async def _wait_for(self, size: int) -> None:
        while size not in self._passed and max(self._passed, default=0) < size:
            self._news.clear()
            await self._news.wait()

    def _send(self, kind: int, number: int, size: int, packet_bytes: int, to: tuple[str, int]) -> None:
        data = _FORM.pack(_MAGIC, self._token, kind, number, size)
        with contextlib.suppress(OSError):  # too big for our own interface, or an ICMP error of an earlier packet
            self._socket.sendto(data.ljust(packet_bytes - _HEADERS, b"\0"), to)

    def _receive(self) -> None:
        while True:
            try:
                data, sender = self._socket.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:
                continue
            if len(data) < _FORM.size:
                continue
            magic, token, kind, number, size = _FORM.unpack_from(data)
            if magic != _MAGIC or not hmac.compare_digest(token, self._token):
                continue
            if kind == _PROBE and len(data) == size - _HEADERS:
                self._send(_ANSWER, number, size, _SMALLEST, sender)
            elif kind == _ANSWER and number == self._round:
                self._passed.add(size)
                self._news.set()


def find_link_mtu(address: str) -> int:
    """Return the MTU in bytes of the interface, or route, that leads to `address`. Raises ChslurmError without one."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
            asking.connect((address, 9))
            return asking.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    except OSError as error:
        hint = "all hosts need IPv4 between them"
        raise ChslurmError(f"can't reach {address}: {error.strerror}", hint=hint) from error


def _spread(low: int, high: int) -> list[int]:
    """Return up to _FAN sizes, evenly between `low` and `high`."""
    step = max(1, -(-(high - low) // (_FAN + 1)))
    return list(range(low + step, high, step))
