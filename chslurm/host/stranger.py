# SPDX-License-Identifier: Apache-2.0
"""Datagrams sent by a process of another user of this node: `python3 -I -m chslurm.host.stranger`, by sudo.

It reads lines, each an address, a port and a payload in hexadecimal, and sends what the kernel lets it. A site that
lets the checking user do this as somebody without rights has let him do nothing else.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

from chslurm.errors import ProcessError
from chslurm.host.process import run

_TIMEOUT_S = 20.0
_MOST_LINES = 64
_DONE = "tried"


def make_stranger_argv(user: str) -> list[str]:
    """Return the command that a site allows in its sudoers(5)."""
    return ["sudo", "-n", "-u", user, "--", sys.executable, "-I", "-m", "chslurm.host.stranger"]


def send_as(user: str, datagrams: Sequence[tuple[str, int, str]]) -> str:
    """Let another user send `datagrams`; return why that was not to be had, empty when it was."""
    lines = "".join(f"{address} {port} {payload}\n" for address, port, payload in datagrams)
    try:
        done = run(make_stranger_argv(user), input_text=lines, timeout_s=_TIMEOUT_S, check=False)
    except ProcessError as error:
        return f"no process of {user}: {error}"[:200]
    if done.status == 0 and done.stdout.strip() == _DONE:
        return ""
    why = (done.stderr.strip().splitlines() or [f"exit status {done.status}"])[-1]
    return f"no process of {user}: {why}"[:200]


def send_all(lines: Iterable[str]) -> None:
    """Send each; what is refused has not arrived, which is all that counts."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _, line in zip(range(_MOST_LINES), lines, strict=False):
            address, port, payload = line.split()
            with suppress(OSError):
                sender.sendto(bytes.fromhex(payload), (address, int(port)))


if __name__ == "__main__":
    send_all(sys.stdin)
    print(_DONE)
