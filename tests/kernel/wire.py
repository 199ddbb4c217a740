# SPDX-License-Identifier: Apache-2.0
"""One host's network with the test at every end of it: sends frames, and says where each of them arrived.

Ends are the guests' TAPs (`guest1`...), the host's own end of the bridge (`bridge`), what its stack hands to programs
(`node`), and `beyond`: a TAP in the place of what leads to other hosts or to the outside. Frames are known again by
eight bytes in them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import select
import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lab import Lab

from chslurm.addresses import make_mac
from chslurm.filters import make_packet_filters
from chslurm.linkfilters import make_bridge_filters, make_tap_filters
from chslurm.network import UPLINK_GATEWAY, HostNetwork, Place, Step, Tool, make_host_network, make_outside_steps
from chslurm.plan import Mode
from chslurm.tunnel import Peer, make_tunnel_steps

BEYOND_MAC = "02:02:00:00:00:01"  # of whoever is at the far end of `beyond`
_VNET_HEADER = bytes(10)  # of frames of a TAP: no offload
_FRAME_MAX = 70000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shot:
    """A frame with a name: where it is sent from, and where it must arrive, and nowhere else."""

    name: str
    source: str
    frame: bytes
    mark: bytes
    reaches: frozenset[str] = frozenset()


class Wire:
    """The product's network of one host, started as a user does, with all that it loads later, too."""

    def __init__(self, lab: Lab, mode: Mode, slots: int = 4) -> None:
        host_ct = 1 if mode is Mode.WORKSTATION else 2
        self.network: HostNetwork = make_host_network(1, slots, mode, host_ct)
        self.node = lab.start(lab.add_host(1), 1, slots, mode, host_ct, bare=True)
        self.link = "up0" if mode is Mode.WORKSTATION else "vx0"
        self._foreign: list[int] = []
        self.later = self._make_later_steps(mode)
        self.beyond = self._open("tap", self.link)[0]
        self._prepare()
        bridge, *others = self._open("witnesses")
        self._bridge = socket.socket(fileno=bridge)
        self._stack = [socket.socket(fileno=fd) for fd in others]
        lab.stack.callback(self._close)

    # -- rules --------------------------------------------------------------------------------------------------------

    def restore(self, *, shared: bool = False) -> None:
        """Load all filters of the product anew, as they are loaded by it; or as for a namespace shared with others."""
        steps = (*self.network.steps, *self.later)
        rules = [step.text for step in steps if (step.place, step.tool) == (Place.GUESTS, Tool.NFT)]
        if shared:
            realm = dataclasses.replace(self.network.realm, shared=True)
            rules[:3] = [make_packet_filters(realm), make_tap_filters(realm), make_bridge_filters(realm)]
        self.nft("flush ruleset\n" + "".join(rules))

    def nft(self, text: str) -> None:
        """Let nft do `text`."""
        self._inside(["nft", "-f", "-"], text)

    def read_rules(self, kind: str) -> list[Json]:
        """What is loaded: every `table`, `chain` or `rule`."""
        found = json.loads(self._inside(["nft", "-j", "list", "ruleset"]))["nftables"]
        return [item[kind] for item in found if kind in item]

    def list_table(self, family: str, table: str) -> list[str]:
        """A table as people read it, with handles."""
        return [line.strip() for line in self._inside(["nft", "-a", "list", "table", family, table]).splitlines()]

    def set_mtu(self, mtu: int) -> None:
        """Let bridge and TAPs take packets of this size."""
        links = ["br0", *(guest.tap for guest in self.network.guests)]
        self._inside(["ip", "-batch", "-"], "\n".join(f"link set {link} mtu {mtu}" for link in links))

    def add_foreign_bridge(self) -> Callable[[bytes], bytes]:
        """Make a bridge with two ports that are none of ours; return what sends a frame from one to the other."""
        self._inside(["ip", "link", "add", "foreign0", "type", "bridge"])
        ends = [self._open("tap", f"foreign{number}")[0] for number in (1, 2)]
        links = "\n".join(f"link set foreign{number} master foreign0 up" for number in (1, 2))
        self._inside(
            ["ip", "-batch", "-"], f"link set foreign0 type bridge forward_delay 0\nlink set foreign0 up\n{links}"
        )
        self._foreign = ends

        def send(frame: bytes) -> bytes:
            os.write(ends[0], _VNET_HEADER + frame)
            ready = select.select([ends[1]], [], [], 0.2)[0]
            return os.read(ends[1], _FRAME_MAX).removeprefix(_VNET_HEADER) if ready else b""

        return send

    # -- frames -------------------------------------------------------------------------------------------------------

    def fire(self, shots: Iterable[Shot]) -> dict[str, frozenset[str]]:
        """Send all of them; return by name where each arrived."""
        waiting = list(shots)
        arrived: dict[str, set[str]] = {shot.name: set() for shot in waiting}
        for start in range(0, len(waiting), 50):  # no queue gets full
            self._drain()
            for before, shot in itertools.pairwise([waiting[start], *waiting[start : start + 50]]):
                if shot.source != before.source:  # what was sent elsewhere may be what it answers
                    self.node.ask("settle")
                self._send(shot)
            self.node.ask("settle")
            for end, frame in self._drain():
                for shot in waiting[start : start + 50]:
                    if shot.mark in frame:
                        arrived[shot.name].add(end)
        return {name: frozenset(ends) for name, ends in arrived.items()}

    def _send(self, shot: Shot) -> None:
        match shot.source:
            case "bridge":
                self._bridge.send(shot.frame)
            case "beyond":
                os.write(self.beyond, _VNET_HEADER + shot.frame)
            case guest:
                self.node.ports[int(guest.removeprefix("guest")) - 1].ours.send(_VNET_HEADER + shot.frame)

    def _drain(self) -> list[tuple[str, bytes]]:
        """Every frame that has arrived anywhere, with where."""
        ends: dict[int, str] = {port.ours.fileno(): f"guest{slot}" for slot, port in enumerate(self.node.ports, 1)}
        ends[self.beyond] = "beyond"
        ends[self._bridge.fileno()] = "bridge"
        ends |= {end.fileno(): "node" for end in self._stack}
        found = []
        while ready := select.select(list(ends), [], [], 0)[0]:
            for fd in ready:
                if fd == self._bridge.fileno():
                    frame, origin = self._bridge.recvfrom(_FRAME_MAX)
                    if origin[2] == socket.PACKET_OUTGOING:
                        continue
                else:
                    frame = os.read(fd, _FRAME_MAX)
                found.append((ends[fd], frame))
        return found

    # -- set-up -------------------------------------------------------------------------------------------------------

    def _make_later_steps(self, mode: Mode) -> tuple[Step, ...]:
        """What the product does in the guests' namespace once its link to others is there."""
        if mode is Mode.WORKSTATION:
            return make_outside_steps(self.network)
        peers = [Peer(1, "10.99.0.1", 9), Peer(2, "10.99.0.2", 9)]
        return make_tunnel_steps(self.network, peers, 1, 1550)

    def _prepare(self) -> None:
        """Give the link its address; let only filters judge sources; know all neighbours, none by asking.

        The fourth guest is known by address, but the bridge does not know its port: frames for it go to all ports.
        """
        gateway = self.network.gateway
        mac = make_mac(gateway, kind=1)
        self._inside(["ip", "link", "set", self.link, "address", mac])
        rules = [step for step in self.later if (step.place, step.tool) == (Place.GUESTS, Tool.NFT)]
        links = [step for step in self.later if (step.place, step.tool) == (Place.GUESTS, Tool.IP)]
        for step in rules:
            self.nft(step.text)
        for step in links:
            self._inside(["ip", "-force", "-batch", "-"], step.text)
        sysctls = [
            f"net.ipv4.conf.{link}.{key}"
            for link in ("all", "br0", self.link)
            for key in ("rp_filter=0", "accept_local=1", "route_localnet=1")
        ]
        self._inside(["sysctl", "-qw", *sysctls, "net.ipv4.icmp_ratemask=0"])
        far = UPLINK_GATEWAY if self.link == "up0" else "172.22.2.254"
        lines = [f"neigh replace {far} lladdr {BEYOND_MAC} dev {self.link} nud permanent"]
        known = [f"neigh replace {g.ip} lladdr {g.mac} dev br0 nud permanent" for g in self.network.guests]
        self._inside(["ip", "-batch", "-"], "\n".join([*lines, *known]))
        ports = [f"fdb replace {g.mac} dev {g.tap} master static sticky" for g in self.network.guests[:3]]
        self._inside(["bridge", "-batch", "-"], "\n".join(ports))

    def _open(self, *words: str) -> Sequence[int]:
        """Descriptors of what `sockets.py` opens in the guests' namespace."""
        ours, theirs = socket.socketpair()
        kind, *rest = words
        script = [os.fspath(self.node.tools / "sockets.py"), kind, str(theirs.fileno()), *rest]
        with ours, theirs:
            argv = self.node.on.argv(*self._entering(), "python3", *script)
            subprocess.run(argv, pass_fds=[theirs.fileno()], check=True, timeout=20)
            return socket.recv_fds(ours, 1, 20)[1]

    def _inside(self, argv: Sequence[str], text: str = "") -> str:
        argv = ["nsenter", "--target", str(self.node.holder), "--net", *argv]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout

    def _entering(self) -> list[str]:
        return ["nsenter", "--target", str(self.node.holder), "--net"]

    def _close(self) -> None:
        for fd in (self.beyond, *self._foreign):
            os.close(fd)
        for end in (self._bridge, *self._stack):
            end.close()
