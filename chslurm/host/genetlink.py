# SPDX-License-Identifier: Apache-2.0
"""Commands to a generic netlink family of the kernel (netlink(7)), in the network namespace where we are.

What they say is encoded elsewhere; here they are sent, one by one, and each is acknowledged or refused.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable

from chslurm.errors import ChslurmError

_GENERIC = 16  # NETLINK_GENERIC
_CONTROL, _GET_FAMILY, _CONTROL_VERSION = 16, 3, 1  # the family that knows all families, and its question
_FAMILY_ID, _FAMILY_NAME = 1, 2
_REQUEST, _ACKNOWLEDGE = 1, 4
_ERROR = 2  # kind of an answer; 0 in it is success
_HEADER = struct.Struct("=IHHII")  # length, kind, flags, sequence number, port
_COMMAND = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")


def send_commands(family: str, version: int, command: int, messages: Iterable[bytes]) -> None:
    """Send `command` with each of `messages` for its attributes. Raises ChslurmError when the kernel refuses one."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _GENERIC) as kernel:
        kernel.bind((0, 0))
        number = _find_family(kernel, family)
        for attributes in messages:
            _ask(kernel, family, number, _REQUEST | _ACKNOWLEDGE, _COMMAND.pack(command, version, 0) + attributes)


def has_family(family: str) -> bool:
    """Say whether the kernel has a family; it loads the module if it can."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _GENERIC) as kernel:
        kernel.bind((0, 0))
        try:
            return bool(_find_family(kernel, family))
        except ChslurmError:
            return False


def _find_family(kernel: socket.socket, family: str) -> int:
    name = family.encode() + b"\0"
    question = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(name), _FAMILY_NAME) + name + bytes(-len(name) % 4)
    command = _COMMAND.pack(_GET_FAMILY, _CONTROL_VERSION, 0)
    attributes = _ask(kernel, family, _CONTROL, _REQUEST, command + question)[_COMMAND.size :]
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _FAMILY_ID:
            return int(struct.unpack_from("=H", attributes, _ATTRIBUTE.size)[0])
        attributes = attributes[max(length + -length % 4, _ATTRIBUTE.size) :]
    raise ChslurmError(f"can't speak with the kernel's {family}: it has no number")


def _ask(kernel: socket.socket, family: str, kind: int, flags: int, data: bytes) -> bytes:
    """Send one message and return the body of the first answer."""
    kernel.send(_HEADER.pack(_HEADER.size + len(data), kind, flags, 1, 0) + data)
    answer = kernel.recv(65536)
    length, answered, *_ = _HEADER.unpack_from(answer)
    if answered == _ERROR:
        (result,) = struct.unpack_from("=i", answer, _HEADER.size)
        if result:
            why = f"{os.strerror(-result)} ({errno.errorcode.get(-result, -result)})"
            raise ChslurmError(f"can't configure {family} in the kernel: {why}")
    return answer[_HEADER.size : length]
