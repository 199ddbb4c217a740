# SPDX-License-Identifier: Apache-2.0
"""A host's line to the head: orders from standard input, events to standard output. SLURM carries it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from chslurm.messages import Event, Order, decode_order, encode_event

_ORDER_MAX_BYTES = 65536


def tell(event: Event) -> None:
    """Say one event, in one write, which SLURM does not mix with others. A head that is gone does not hear it."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), encode_event(event))


def listen(on_order: Callable[[Order], None], on_end: Callable[[], None]) -> None:
    """Call `on_order` for every order that comes, `on_end` once when the head says no more. Inside the event loop.

    The input is always drained: a task that does not read delays the orders of all others.
    """
    loop = asyncio.get_running_loop()
    source = sys.stdin.fileno()
    os.set_blocking(source, False)
    pending = b""

    def read() -> None:
        nonlocal pending
        try:
            data = os.read(source, _ORDER_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(source)
            on_end()
            return
        *lines, pending = (pending + data).split(b"\n")
        pending = pending[-_ORDER_MAX_BYTES:]
        for line in lines:
            if (order := decode_order(line)) is not None:
                on_order(order)

    loop.add_reader(source, read)
