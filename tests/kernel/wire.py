# SPDX-License-Identifier: Apache-2.0
"""One host's network with the test at every end of it: sends frames, and says where each of them arrived.

Ends are the guests' TAPs (`guest1`...), the host's own end of the bridge (`bridge`), what its stack hands to programs
(`node`), and `beyond`: a TAP in the place of what leads to other hosts or to the outside. Frames are known again by
eight bytes in them.
"""

from __future__ import annotations

import dataclasses
import os
import select
import socket
import subprocess
from collections.abc import Callable, Sequence

from firing import FRAME_MAX, VNET_HEADER, FiringRange, Shot, open_ends
from lab import Lab

from chslurm.addresses import make_mac
from chslurm.filters import make_packet_filters
from chslurm.linkfilters import make_bridge_filters, make_tap_filters
from chslurm.network import UPLINK_GATEWAY, HostNetwork, Place, Step, Tool, make_host_network, make_outside_steps
from chslurm.plan import Mode
from chslurm.tunnel import Peer, make_tunnel_steps

__all__ = ["BEYOND_MAC", "Shot", "Wire"]

BEYOND_MAC = "02:02:00:00:00:01"  # of whoever is at the far end of `beyond`


class Wire(FiringRange):
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
        bridge, *others = self._open("witnesses", "br0")
        self._bridge = socket.socket(fileno=bridge)
        self.links = {bridge: self._bridge}
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

    def set_mtu(self, mtu: int) -> None:
        """Let bridge and TAPs take packets of this size."""
        links = ["br0", *(guest.tap for guest in self.network.guests)]
        self.inside(["ip", "-batch", "-"], "\n".join(f"link set {link} mtu {mtu}" for link in links))

    def add_foreign_bridge(self) -> Callable[[bytes], bytes]:
        """Make a bridge with two ports that are none of ours; return what sends a frame from one to the other."""
        self.inside(["ip", "link", "add", "foreign0", "type", "bridge"])
        ends = [self._open("tap", f"foreign{number}")[0] for number in (1, 2)]
        links = "\n".join(f"link set foreign{number} master foreign0 up" for number in (1, 2))
        self.inside(
            ["ip", "-batch", "-"], f"link set foreign0 type bridge forward_delay 0\nlink set foreign0 up\n{links}"
        )
        self._foreign = ends

        def send(frame: bytes) -> bytes:
            os.write(ends[0], VNET_HEADER + frame)
            while select.select([ends[1]], [], [], 0.2)[0]:
                seen = os.read(ends[1], FRAME_MAX).removeprefix(VNET_HEADER)
                if seen == frame:  # a bridge may have something to say of its own, such as IGMP
                    return seen
            return b""

        return send

    # -- frames -------------------------------------------------------------------------------------------------------

    def send(self, shot: Shot) -> None:
        match shot.source:
            case "bridge":
                self._bridge.send(shot.frame)
            case "beyond":
                os.write(self.beyond, VNET_HEADER + shot.frame)
            case guest:
                self.node.ports[int(guest.removeprefix("guest")) - 1].ours.send(VNET_HEADER + shot.frame)

    def settle(self) -> None:
        self.node.ask("settle")

    def list_ends(self) -> dict[int, str]:
        ends: dict[int, str] = {port.ours.fileno(): f"guest{slot}" for slot, port in enumerate(self.node.ports, 1)}
        ends[self.beyond] = "beyond"
        ends[self._bridge.fileno()] = "bridge"
        return ends | {end.fileno(): "node" for end in self._stack}

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
        self.inside(["ip", "link", "set", self.link, "address", mac])
        rules = [step for step in self.later if (step.place, step.tool) == (Place.GUESTS, Tool.NFT)]
        links = [step for step in self.later if (step.place, step.tool) == (Place.GUESTS, Tool.IP)]
        for step in rules:
            self.nft(step.text)
        for step in links:
            self.inside(["ip", "-force", "-batch", "-"], step.text)
        sysctls = [
            f"net.ipv4.conf.{link}.{key}"
            for link in ("all", "br0", self.link)
            for key in ("rp_filter=0", "accept_local=1", "route_localnet=1")
        ]
        self.inside(["sysctl", "-qw", *sysctls, "net.ipv4.icmp_ratemask=0"])
        far = UPLINK_GATEWAY if self.link == "up0" else "172.22.2.254"
        lines = [f"neigh replace {far} lladdr {BEYOND_MAC} dev {self.link} nud permanent"]
        known = [f"neigh replace {g.ip} lladdr {g.mac} dev br0 nud permanent" for g in self.network.guests]
        self.inside(["ip", "-batch", "-"], "\n".join([*lines, *known]))
        ports = [f"fdb replace {g.mac} dev {g.tap} master static sticky" for g in self.network.guests[:3]]
        self.inside(["bridge", "-batch", "-"], "\n".join(ports))

    def _open(self, kind: str, *words: str) -> Sequence[int]:
        """Descriptors of what `sockets.py` opens in the guests' namespace."""
        inside = self.node.on.argv(*self._entering())
        return open_ends(inside, [os.fspath(self.node.tools / "sockets.py"), kind, *words])

    def inside(self, argv: Sequence[str], text: str = "") -> str:
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
