# SPDX-License-Identifier: Apache-2.0
"""Which links of the namespace where we are have the number of a group, from the kernel itself (rtnetlink(7)).

`ip` would tell as well, in 5 ms; /sys tells of the namespace of whoever mounted it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

_HEADER, _LINK, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=HH")
_GETLINK, _NEWLINK, _DONE, _ERROR = 18, 16, 3, 2
_REQUEST_DUMP = 0x301
_NAME, _GROUP = 3, 27
_BUFFER_BYTES = 1 << 17


def find_group(number: int) -> list[str]:
    """Return the names of all links of a group. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
        asking.settimeout(1.0)
        length = _HEADER.size + _LINK.size
        asking.send(_HEADER.pack(length, _GETLINK, _REQUEST_DUMP, 1, 0) + _LINK.pack(0, 0, 0, 0, 0))
        names: list[str] = []
        while True:
            for kind, body in _parts(asking.recv(_BUFFER_BYTES), _HEADER):
                if kind == _DONE:
                    return names
                if kind == _ERROR:
                    code = -int.from_bytes(body[:4], "little", signed=True)
                    raise OSError(code, os.strerror(code))
                found = dict(_parts(body[_LINK.size :], _ATTRIBUTE)) if kind == _NEWLINK else {}
                if _GROUP in found and struct.unpack("=I", found[_GROUP])[0] == number:
                    names.append(os.fsdecode(found[_NAME].rstrip(b"\0")))


def _parts(data: bytes, head: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Messages, or attributes: each has its length, its kind, and begins at a multiple of four."""
    while len(data) >= head.size:
        length, kind = head.unpack_from(data)[:2]
        if length < head.size:
            raise OSError("the kernel's answer makes no sense")
        yield kind, data[head.size : length]
        data = data[(length + 3) & ~3 :]
