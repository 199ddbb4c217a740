#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs in guests, as their job: one gets what the other sends over one TCP connection for some seconds.

Arguments: SECONDS serve | SECONDS send ADDRESS | SECONDS cluster, where guest 0 serves and guest 1 sends

The sender prints megabits per second, from its first byte to the word of the server that it has all of them.
"""

from __future__ import annotations

import os
import socket
import sys
import time

PORT = 5201
CHUNK = bytes(1 << 16)
PATIENCE_S = 120.0


def serve() -> None:
    """Take all that one sender has to give, and say how much it was."""
    with socket.create_server(("", PORT)) as listener:
        listener.settimeout(PATIENCE_S)
        end, _ = listener.accept()
        with end:
            room, total = bytearray(1 << 18), 0
            while got := end.recv_into(room):
                total += got
            end.sendall(str(total).encode())


def send(address: str, seconds: float) -> None:
    """Send for so long, and print how quick that was."""
    with connect(address) as end:
        begin_s, sent = time.monotonic(), 0
        while time.monotonic() - begin_s < seconds:
            end.sendall(CHUNK)
            sent += len(CHUNK)
        end.shutdown(socket.SHUT_WR)
        arrived = int(end.recv(100))
        elapsed_s = time.monotonic() - begin_s
    assert arrived == sent
    print(8e-6 * sent / elapsed_s)


def connect(address: str) -> socket.socket:
    """Connect as soon as somebody serves."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection((address, PORT), timeout=PATIENCE_S)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


seconds, role, *rest = sys.argv[1:]
if role == "cluster":
    role, rest = ("serve", []) if os.environ["CH_GUEST_ID"] == "0" else ("send", ["chgu0"])
if role == "serve":
    serve()
else:
    send(*rest, seconds=float(seconds))
