# SPDX-License-Identifier: Apache-2.0
"""The socket of a host's task where its user attaches: its name, and who is at the other end.

It is an abstract Unix socket: it has no file, ends with the task however that ends, and is in the node's network
namespace, where `srun --overlap` leads. Its name comes from the cluster's keys, so nobody else can take it first; once
it is there all can see it, so both sides look at the other's user id, which the kernel tells (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import socket
import struct

from chslurm.guest_files import ClusterKeys
from chslurm.host.keys import make_token

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def make_attach_name(keys: ClusterKeys, host: int) -> str:
    """Return the abstract name of the socket of one host's task."""
    return f"\0chslurm/{make_token(keys, f'attach {host}').hex()}"


def read_peer_uid(connection: socket.socket) -> int:
    """Return the user id of the process at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])
