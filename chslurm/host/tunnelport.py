# SPDX-License-Identifier: Apache-2.0
"""The UDP port of the tunnel on a host: found, lent to pasta, and kept from the other users of the node.

pasta sets SO_REUSEADDR, and two sockets that both have it may share a port whoever owns them: a stranger who binds it
more specifically takes the datagrams, and sends under our name. One socket without it, bound to the port, refuses all
that come later. So ours has it only for the moment in which pasta binds, and then guards the port to the end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from chslurm.errors import ChslurmError

_TABLES = (Path("/proc/net/udp"), Path("/proc/net/udp6"))


def reserve_tunnel_port() -> socket.socket:
    """Return a UDP socket that keeps a free port of this host until pasta has it, and with which to probe the path.

    Raises ChslurmError when there is none.
    """
    try:
        while True:
            reserved = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            reserved.bind(("0.0.0.0", 0))  # without SO_REUSEADDR, so that the port is nobody's
            if reserved.getsockname()[1] < 65535:  # VXLAN needs a range of two source ports to use the first
                return reserved
            reserved.close()
    except OSError as error:
        hint = "all ports of this node may be taken: see `ss -uan`"
        raise ChslurmError(f"can't get a UDP port for the tunnel: {error.strerror}", hint=hint) from error


def lend(reserved: socket.socket) -> None:
    """Let pasta bind the port, too; until `guard` everybody else can."""
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def guard(reserved: socket.socket) -> None:
    """Let nobody bind the port from now on. What still arrives at this socket itself is nothing of ours."""
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)


def check_owner(port: int) -> None:
    """Raise ChslurmError when somebody else has bound the port as well."""
    lines = (line for table in _TABLES if table.exists() for line in table.read_text().splitlines())
    strangers = [uid for uid in find_owners(lines, port) if uid != os.getuid()]
    if strangers:
        raise ChslurmError(
            f"the user with uid {strangers[0]} has bound UDP port {port} of our tunnel on this node",
            hint="try again, and tell the site: this does not happen by accident",
        )


def find_owners(lines: Iterable[str], port: int) -> Iterator[int]:
    """Return the uid of each socket at `port`, from lines of /proc/net/udp (proc(5))."""
    for line in lines:
        words = line.split()
        if len(words) > 7 and words[1].endswith(f":{port:04X}"):
            yield int(words[7])
