# SPDX-License-Identifier: Apache-2.0
"""A guest's end of its TAP, without a guest."""

from __future__ import annotations

import os
import socket

from chslurm.addresses import GuestAddress


class Port:
    """The test itself sends frames at `ours` and gets them there, each behind a header of 10 bytes (virtio_net_hdr)."""

    def __init__(self, address: GuestAddress) -> None:
        self.address = address
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.tap = theirs.detach()

    def end(self) -> None:
        self.ours.close()
        os.close(self.tap)
