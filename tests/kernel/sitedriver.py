# SPDX-License-Identifier: Apache-2.0
"""The node process of a test in a network that root has made: takes TAPs as an ordinary user, and passes frames on.

    sitedriver.py SLOT,... GUEST_TAP_FD...

It says on stdout, as JSON, how guests reach the outside, then why it has ended. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

from chslurm.errors import ChslurmError
from chslurm.host.sitetaps import open_site_tap
from chslurm.host.tapfabric import TapFabric, use_site_network
from chslurm.site import make_tap_name


def main() -> None:
    slots, *guests = sys.argv[1:]
    numbers = [int(slot) for slot in slots.split(",")]
    try:
        taps = [open_site_tap(make_tap_name(slot)) for slot in numbers]
        with use_site_network(numbers, taps) as fabric:
            asyncio.run(serve(fabric, [int(fd) for fd in guests]))
    except (OSError, ChslurmError) as error:
        say(error=str(error))


async def serve(fabric: TapFabric, guests: list[int]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    taps = [tap for (tap,) in fabric.taps]
    for tap, guest in zip(taps, guests, strict=True):
        loop.add_reader(tap, pump, tap, guest)
        loop.add_reader(guest, pump, guest, tap)
    loop.add_reader(fabric, look, loop, fabric, ended)
    loop.add_reader(0, ended.set)
    say(joined=fabric.join_outside())
    await ended.wait()
    for fd in (*taps, *guests):
        loop.remove_reader(fd)


def look(loop: asyncio.AbstractEventLoop, fabric: TapFabric, ended: asyncio.Event) -> None:
    try:
        fabric.check()
    except ChslurmError as error:
        loop.remove_reader(fabric)
        say(lost=str(error))
        ended.set()


def pump(source: int, target: int) -> None:
    with contextlib.suppress(OSError):
        os.write(target, os.read(source, 70000))


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


main()
