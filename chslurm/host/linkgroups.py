# SPDX-License-Identifier: Apache-2.0
"""Links of the namespace where we are, found by the number of a group, and removed (rtnetlink(7)).

`ip` would do as well, in 5 ms to 10 ms more each time; /sys tells of the namespace of whoever mounted it.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator

_HEADER, _LINK, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=HH")
_NEWLINK, _DELLINK, _GETLINK, _DONE, _ERROR = 16, 17, 18, 3, 2
_REQUEST_DUMP, _REQUEST_ACK = 0x301, 0x5
_NAME, _GROUP = 3, 27
_BUFFER_BYTES = 1 << 17


def find_group(number: int) -> list[str]:
    """Return the names of all links of a group. Raises OSError."""
    names: list[str] = []
    for body in _ask(_GETLINK, _REQUEST_DUMP, 0):
        found = dict(_parts(body[_LINK.size :], _ATTRIBUTE))
        if _GROUP in found and struct.unpack("=I", found[_GROUP])[0] == number:
            names.append(os.fsdecode(found[_NAME].rstrip(b"\0")))
    return names


def delete_group(number: int) -> None:
    """Delete all links of a group at once: the kernel waits once for whoever still uses them. Raises OSError."""
    _ask(_DELLINK, _REQUEST_ACK, 0, _ATTRIBUTE.pack(8, _GROUP) + struct.pack("=I", number))


def delete_link(name: str) -> None:
    """Delete a link. Raises OSError."""
    _ask(_DELLINK, _REQUEST_ACK, socket.if_nametoindex(name))


def _ask(what: int, flags: int, index: int, attributes: bytes = b"") -> list[bytes]:
    """Return the links of the answer, each as a message without its header."""
    body = _LINK.pack(0, 0, index, 0, 0) + attributes
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
        asking.settimeout(1.0)
        asking.send(_HEADER.pack(_HEADER.size + len(body), what, flags, 1, 0) + body)
        while True:
            for kind, part in _parts(asking.recv(_BUFFER_BYTES), _HEADER):
                if kind == _NEWLINK:
                    found.append(part)
                if kind == _ERROR and (code := -int.from_bytes(part[:4], sys.byteorder, signed=True)):
                    raise OSError(code, os.strerror(code))
                if kind in (_DONE, _ERROR):  # an error of 0 is an acknowledgement
                    return found


def _parts(data: bytes, head: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Messages, or attributes: each has its length, its kind, and begins at a multiple of four."""
    while len(data) >= head.size:
        length, kind = head.unpack_from(data)[:2]
        if length < head.size:
            raise OSError("the kernel's answer makes no sense")
        yield kind, data[head.size : length]
        data = data[(length + 3) & ~3 :]
