# SPDX-License-Identifier: Apache-2.0
"""Where the other nodes of a job are in the real network, found in bounded time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

from chslurm.errors import ChslurmError

_IP_MTU = 14  # linux/in.h: of a connected socket


def find_addresses(nodes: Sequence[str], own: str, timeout_s: float) -> list[str]:
    """Return the IPv4 address of each node, in order. Raises ChslurmError when one is not found in time."""
    found: list[str] = []
    errors: list[OSError] = []

    def look() -> None:
        try:
            for node in nodes:
                found.append(str(socket.getaddrinfo(node, None, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0]))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=look, daemon=True)  # a question to a name server can't be given up
    thread.start()
    thread.join(timeout_s)
    if len(found) < len(nodes):
        node = nodes[len(found)]
        why = errors[0].strerror if errors else f"no answer in {timeout_s:.1f} s"
        raise ChslurmError(f"can't find the address of {node}: {why}", hint="put the nodes into /etc/hosts")
    own_place = nodes.index(own)
    other = found[own_place - 1]
    if _is_loopback(found[own_place]):  # Debian's /etc/hosts has it so
        found[own_place] = _connect(other)[0]
    for node, address in zip(nodes, found, strict=True):
        if _is_loopback(address):
            raise ChslurmError(f"can't use {address} for {node}: it leads to this node alone")
    return found


def find_path_mtu(addresses: Sequence[str], own: str) -> int:
    """Return the largest IP packet in bytes that the link to the other nodes takes. Raises ChslurmError."""
    return _connect(next(address for address in addresses if address != own))[1]


def _connect(address: str) -> tuple[str, int]:
    """Return our address toward another, and the MTU of the way there as the kernel knows it; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
            return str(probe.getsockname()[0]), probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError as error:
            raise ChslurmError(f"can't reach {address}: {error.strerror}") from error


def _is_loopback(address: str) -> bool:
    return address.startswith("127.")
