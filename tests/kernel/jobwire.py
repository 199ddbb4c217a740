# SPDX-License-Identifier: Apache-2.0
"""The network of a job on one node, made by root's prolog, with the test at every end of it, and at the node's cable.

Ends are those of `wire`, where `bridge` and `node` are the gateway's, in the job's own namespace, and `beyond` is a TAP
in the place of the job's VXLAN. `host` is what the node's own stack hands to programs, `cable` what it sends to its
network. From there come frames, too, and `user` is an ordinary user of the node.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from firing import VNET_HEADER, FiringRange, Shot, open_ends
from joblab import OTHER_USER, USER, SlurmNode, add_nodes
from lab import Lab
from shots import GATEWAY_MAC, LINK_MAC, make_rightful, make_shot, mark
from wire import BEYOND_MAC

from chslurm.frames import IP, make_frame, make_udp
from chslurm.jobnet import make_job_network, make_job_steps
from chslurm.network import GUESTS_NETNS, Place, Tool
from chslurm.plan import Mode
from chslurm.slurmjob import JobSettings, SlurmJob

JOB, SLOTS = 3000017, 4
OWN, PEER, STRANGER, ELSEWHERE = "10.99.0.1", "10.99.0.2", "10.99.0.9", "198.51.100.1"
_IP_PROTOCOL, _ICMP = 14 + 9, 1
_STRANGER_MAC = "02:09:00:00:00:09"


class JobWire(FiringRange):
    """The product's network; `inside` works where `in_job` says."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.in_job = lab, False
        self.node: SlurmNode = add_nodes(lab, 2, f"TAPS={SLOTS}")[0]
        done = self.node.prolog(JOB, "cn[1-2]", USER)
        assert (done.returncode, done.stderr) == (0, "")
        settings = JobSettings(tap_ct=SLOTS)
        self.network = make_job_network(SlurmJob(JOB, USER, "site", frozenset(), ("cn1", "cn2"), "cn1"), settings)
        self.steps = make_job_steps(self.network, [OWN, PEER], 1500)
        self._node_mac = self.node.host.sh("ip -br link show eth0").split()[2]
        self._prepare()
        self._taps |= {
            f"guest{slot}": self._open("tap", g.tap)[0] for slot, g in enumerate(self.network.guests[:SLOTS], 1)
        }
        bridge, *stack = self._open("witnesses", "br0", in_job=True)
        self._node_stack = self._open("witnesses")
        self._job_stack = stack
        cable = open_ends(lab.outside.argv(), [str(lab.tools / "sockets.py"), "witnesses", "h1"])
        self._bridge, self._cable = (socket.socket(fileno=ends) for ends in (bridge, cable[0]))
        self._rest = cable[1:]
        self.links = {end.fileno(): end for end in (self._bridge, self._cable)}
        self._user = socket.socket(fileno=self._open("speaker", user=OTHER_USER)[0])
        lab.stack.callback(self._close)

    def restore(self) -> None:
        """Load all filters of the product anew, in both namespaces."""
        before = self.in_job
        for self.in_job, place in ((False, Place.NODE), (True, Place.GUESTS)):
            texts = [step.text for step in self.steps if (step.place, step.tool) == (place, Tool.NFT)]
            self.nft("flush ruleset\n" + "".join(texts))
        self.in_job = before

    # -- frames -------------------------------------------------------------------------------------------------------

    def send(self, shot: Shot) -> None:
        match shot.source:
            case "bridge":
                self._bridge.send(shot.frame)
            case "cable":
                self._cable.send(shot.frame)
            case "user299" | "user300":
                with suppress(OSError):  # he is told that he may not
                    self._user.sendto(shot.mark, (PEER, int(shot.source.removeprefix("user"))))
            case end:
                os.write(self._taps[end], VNET_HEADER + shot.frame)

    def settle(self) -> None:
        time.sleep(0.001)  # the kernel does all of it while it is sent

    def list_ends(self) -> dict[int, str]:
        stacks = dict.fromkeys(self._job_stack, "node") | dict.fromkeys(self._node_stack, "host")
        taps = {fd: name for name, fd in self._taps.items()}
        return {**taps, **stacks, self._bridge.fileno(): "bridge", self._cable.fileno(): "cable"}

    def name_end(self, end: str, frame: bytes) -> str:
        """Whoever tells by ICMP that there is nobody at a port has got what came for it."""
        return "host" if end == "cable" and frame[_IP_PROTOCOL] == _ICMP else end

    def make_rightful(self) -> list[Shot]:
        """What must arrive, exactly where it says. A bridge whose gateway is behind a port floods to that, too."""
        flooded = "UDP to a guest of unknown port"
        shots = make_rightful(Mode.CLUSTER)
        return [
            *(replace(s, reaches=s.reaches | {"bridge"}) if s.name == flooded else s for s in shots),
            self._carried("of a node of the job", PEER, OWN, "host"),
            self._carried("of a stranger to another port", STRANGER, OWN, "host", port=300),
            self._carried("of a stranger in another number", STRANGER, OWN, "host", vni=7),
            self._carried("to elsewhere in another number", STRANGER, ELSEWHERE, "cable", vni=7),
            make_shot("a user to another port", mark(), "cable", source="user300"),
        ]

    def make_forbidden(self) -> Iterator[Shot]:
        """S9, S10: what comes from no node of the job, or passes through, and what users send."""
        yield self._carried("of a stranger", STRANGER, OWN)
        yield self._carried("as of the outside", "10.99.0.254", OWN)
        yield self._carried("through the node", STRANGER, ELSEWHERE)
        yield self._carried("of the peer through the node", PEER, ELSEWHERE)
        yield make_shot("a user to the tunnel's port", mark(), source="user299")

    def _carried(self, how: str, sender: str, to: str, *reaches: str, port: int = 299, vni: int = JOB + 1) -> Shot:
        header = b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0"
        packet = make_udp(sender, to, (299, port), header + mark())
        frame = make_frame(self._node_mac, _STRANGER_MAC, IP, packet)
        return make_shot(f"VXLAN {how}", frame, *reaches, source="cable")

    # -- set-up -------------------------------------------------------------------------------------------------------

    def inside(self, argv: Sequence[str], text: str = "") -> str:
        enter = ("ip", "netns", "exec", self.network.names.netns) if self.in_job else ()
        done = subprocess.run(
            self.node.host.argv(*enter, *argv), input=text, capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout

    def _prepare(self) -> None:
        """As in `wire`: only filters judge sources, all neighbours are known, and not the port of the fourth guest."""
        guests, names = self.network.guests[:SLOTS], self.network.names
        keys = [f"net.ipv4.conf.{link}.{key}=0" for link in ("all", "eth0") for key in ("rp_filter", "send_redirects")]
        keys += ["net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=0"]
        self.inside(["sysctl", "-qw", *keys])
        self.inside(["ip", "neigh", "replace", PEER, "lladdr", BEYOND_MAC, "dev", "eth0", "nud", "permanent"])
        self.inside(["ip", "neigh", "replace", "10.99.0.254", "lladdr", BEYOND_MAC, "dev", "eth0", "nud", "permanent"])
        ports = [f"fdb replace {g.mac} dev {g.tap} master static sticky" for g in guests[:3]]
        ports.append(f"fdb replace {GATEWAY_MAC} dev {names.veth} master static sticky")
        self.inside(["bridge", "-batch", "-"], "\n".join(ports))
        self.in_job = True
        self.inside(["ip", "link", "del", "vx0"])
        self._taps = {"beyond": self._open("tap", "vx0", in_job=True)[0]}
        self.inside(["ip", "link", "set", "vx0", "address", LINK_MAC, "mtu", "1450"])
        routes = [step.text for step in self.steps if (step.place, step.tool) == (Place.GUESTS, Tool.IP)]
        self.inside(["ip", "link", "set", "vx0", "up"])
        done = self.node.host.argv("ip", "netns", "exec", names.netns, "ip", "-force", "-batch", "-")
        text = "".join(routes).replace(GUESTS_NETNS, names.netns)
        subprocess.run(done, input=text, text=True, capture_output=True, timeout=20, check=False)  # some are there
        sysctls = [
            f"net.ipv4.conf.{link}.{key}"
            for link in ("all", "br0", "vx0")
            for key in ("rp_filter=0", "accept_local=1", "route_localnet=1")
        ]
        self.inside(["sysctl", "-qw", *sysctls, "net.ipv4.icmp_ratemask=0"])
        lines = [f"neigh replace 172.22.2.254 lladdr {BEYOND_MAC} dev vx0 nud permanent"]
        lines += [f"neigh replace {g.ip} lladdr {g.mac} dev br0 nud permanent" for g in guests]
        self.inside(["ip", "-batch", "-"], "\n".join(lines))
        self.in_job = False
        self.restore()

    def _open(self, kind: str, *words: str, user: int = 0, in_job: bool = False) -> Sequence[int]:
        """Descriptors of what `sockets.py` opens on the node, as a user, or in the job's own namespace."""
        who = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups")
        enter = ("ip", "netns", "exec", self.network.names.netns) if in_job else ()
        return open_ends(self.node.host.argv(*enter, *who), [str(self.lab.tools / "sockets.py"), kind, *words])

    def _close(self) -> None:
        for fd in (*self._taps.values(), *self._job_stack, *self._node_stack, *self._rest):
            os.close(fd)
        for end in (self._bridge, self._cable, self._user):
            end.close()
