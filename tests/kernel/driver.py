# SPDX-License-Identifier: Apache-2.0
"""The node process of a test: runs the product's fabric as an ordinary user and does what JSON lines on stdin say.

    driver.py HOST SLOTS[:QUEUES] MODE HOST_CT LOG_DIR [GUEST_TAP_FD...]

Frames go to and fro between the fabric's TAPs and the TAPs of test guests, as QEMU would pass them: by turns
through each queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

from chslurm.errors import ChslurmError
from chslurm.filters import Family
from chslurm.host.fabric import Fabric, own_address, start_fabric
from chslurm.host.pathmtu import PathProbe
from chslurm.host.tunnelport import reserve_tunnel_port
from chslurm.network import make_host_network
from chslurm.plan import Mode
from chslurm.tunnel import Peer
from chslurm.wireguard import derive_host_keys

TOKEN = b"0123456789abcdef"
CLUSTER_ID = "0123456789abcdef"


def main() -> None:
    host, slots, mode, host_ct, log_dir, *guests = sys.argv[1:]
    slot_ct, queue_ct = (int(number) for number in (*slots.split(":"), "1")[:2])
    network = make_host_network(int(host), slot_ct, Mode(mode), int(host_ct))
    began = time.monotonic()
    try:
        with start_fabric(network, Path(log_dir), [queue_ct] * slot_ct) as fabric:
            say(holder=fabric.holder_pid, elapsed_s=time.monotonic() - began)
            asyncio.run(serve(fabric, [int(fd) for fd in guests]))
    except ChslurmError as error:
        say(error=str(error))
    else:
        say(ended=True)


async def serve(fabric: Fabric, guests: Sequence[int]) -> None:
    loop = asyncio.get_running_loop()
    for queues, guest in zip(fabric.taps, guests, strict=True):
        for queue in queues:
            loop.add_reader(queue, pump, queue, repeat(guest))
        loop.add_reader(guest, pump, guest, cycle(queues))
    ended = asyncio.Event()
    loop.add_reader(fabric, lost, loop, fabric, ended)
    orders = asyncio.create_task(obey(fabric, guests, ended))
    await ended.wait()
    orders.cancel()
    for fd in (*chain.from_iterable(fabric.taps), *guests):
        loop.remove_reader(fd)


def pump(source: int, targets: Iterator[int]) -> None:
    with contextlib.suppress(OSError):
        os.write(next(targets), os.read(source, 70000))


def lost(loop: asyncio.AbstractEventLoop, fabric: Fabric, ended: asyncio.Event) -> None:
    loop.remove_reader(fabric)
    try:
        fabric.check()
    except Exception as error:
        say(lost=str(error))
    ended.set()


async def obey(fabric: Fabric, guests: Sequence[int], ended: asyncio.Event) -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    session = Session(fabric, guests)
    while line := await reader.readline():
        order = json.loads(line)
        try:
            say(answer=await getattr(session, order.pop("do"))(**order))
        except Exception as error:
            say(error=f"{type(error).__name__}: {error}")
    ended.set()


class Session:
    def __init__(self, fabric: Fabric, guests: Sequence[int]) -> None:
        self.fabric = fabric
        self.guests = guests
        self.reserved: socket.socket | None = None
        self.probe: PathProbe | None = None

    async def settle(self) -> None:
        """Return when no frame is under way any more."""
        quiet, fds = 0, [*chain.from_iterable(self.fabric.taps), *self.guests]
        while quiet < 3:
            await asyncio.sleep(0)
            quiet = 0 if select.select(fds, [], [], 0.001)[0] else quiet + 1

    async def warning(self) -> str:
        return self.fabric.warning

    async def join_outside(self) -> str:
        return self.fabric.join_outside()

    async def reserve(self, toward: str) -> Any:
        self.reserved = reserve_tunnel_port()
        self.probe = PathProbe(self.reserved, TOKEN)
        return [own_address(toward), self.reserved.getsockname()[1]]

    async def probe_mtu(self, peer: Any, patience_s: float = 5.0) -> Any:
        assert self.probe
        began = time.monotonic()
        return [await self.probe.measure(Peer(*peer), patience_s), time.monotonic() - began]

    async def filter_without(self, families: list[str]) -> None:
        self.fabric.filter_without([Family(family) for family in families])

    async def try_wireguard(self) -> str:
        return self.fabric.find_wireguard_obstacle()

    async def open_tunnel(self, peers: Any, vni: int, mtu: int, secret: str = "") -> float:
        """With a secret by WireGuard."""
        assert self.probe
        assert self.reserved
        self.probe.close()
        own, numbers = self.fabric.network.host, [number for number, *_ in peers]
        keys = derive_host_keys(secret.encode(), CLUSTER_ID, own, numbers) if secret else None
        began = time.monotonic()
        self.fabric.open_tunnel([Peer(*peer) for peer in peers], vni, mtu, self.reserved, keys)
        return time.monotonic() - began


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


main()
