# SPDX-License-Identifier: Apache-2.0
"""Frames are sent at one end of a network that is under test, and it is seen at which ends they arrive."""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

VNET_HEADER = bytes(10)  # of frames of a TAP: no offload
FRAME_MAX = 70000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shot:
    """A frame with a name: where it is sent from, and where it must arrive, and nowhere else."""

    name: str
    source: str
    frame: bytes
    mark: bytes
    reaches: frozenset[str] = frozenset()


class FiringRange(ABC):
    """The network of one host. Frames are known again by eight bytes in them."""

    links: Mapping[int, socket.socket]
    """Those of the ends that are a link itself, and see what it sends, too."""

    @abstractmethod
    def settle(self) -> None:
        """Return when no frame is under way any more."""

    @abstractmethod
    def list_ends(self) -> dict[int, str]:
        """Return the descriptors where frames arrive, with the names of these ends."""

    @abstractmethod
    def send(self, shot: Shot) -> None:
        """Send one frame from where it comes from."""

    @abstractmethod
    def inside(self, argv: Sequence[str], text: str = "") -> str:
        """Run a program where the network is, with `text` to read, and return what it prints."""

    def name_end(self, end: str, frame: bytes) -> str:
        """Return the name under which a frame's arrival at an end counts."""
        return end

    # -- rules --------------------------------------------------------------------------------------------------------

    def nft(self, text: str) -> None:
        """Let nft do `text`."""
        self.inside(["nft", "-f", "-"], text)

    def read_rules(self, kind: str) -> list[Json]:
        """What is loaded: every `table`, `chain` or `rule`."""
        found = json.loads(self.inside(["nft", "-j", "list", "ruleset"]))["nftables"]
        return [item[kind] for item in found if kind in item]

    def list_table(self, family: str, table: str) -> list[str]:
        """A table as people read it, with handles."""
        return [line.strip() for line in self.inside(["nft", "-a", "list", "table", family, table]).splitlines()]

    # -- frames -------------------------------------------------------------------------------------------------------

    def fire(self, shots: Iterable[Shot]) -> dict[str, frozenset[str]]:
        """Send all of them; return by name where each arrived."""
        waiting = list(shots)
        arrived: dict[str, set[str]] = {shot.name: set() for shot in waiting}
        for start in range(0, len(waiting), 50):  # no queue gets full
            some = {shot.mark: shot for shot in waiting[start : start + 50]}
            self._drain()
            for before, shot in itertools.pairwise([waiting[start], *some.values()]):
                if shot.source != before.source:  # what was sent elsewhere may be what it answers
                    self.settle()
                self.send(shot)
            self.settle()
            for end, frame in self._drain():
                for mark, shot in some.items():
                    if mark in frame:
                        arrived[shot.name].add(self.name_end(end, frame))
        return {name: frozenset(ends) for name, ends in arrived.items()}

    def _drain(self) -> list[tuple[str, bytes]]:
        """Every frame that has arrived anywhere, with where."""
        ends, found = self.list_ends(), []
        while ready := select.select(list(ends), [], [], 0)[0]:
            for fd in ready:
                if fd in self.links:
                    frame, origin = self.links[fd].recvfrom(FRAME_MAX)
                    if origin[2] == socket.PACKET_OUTGOING:
                        continue
                else:
                    frame = os.read(fd, FRAME_MAX)
                found.append((ends[fd], frame))
        return found


def open_ends(inside: Sequence[str], script: Sequence[str]) -> Sequence[int]:
    """Descriptors of what `sockets.py KIND FD NAME...` opens; `inside` enters the place."""
    ours, theirs = socket.socketpair()
    path, kind, *names = script
    with ours, theirs:
        argv = [*inside, "python3", path, kind, str(theirs.fileno()), *names]
        subprocess.run(argv, pass_fds=[theirs.fileno()], check=True, timeout=20)
        return socket.recv_fds(ours, 1, 20)[1]
