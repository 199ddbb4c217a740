# SPDX-License-Identifier: Apache-2.0
"""A network that root has made on a host, with the test at every end of it, and at ends of the host's other networks.

Ends are those of `wire`, where `beyond` is the link to the outside, and there `bare` for what is said to come from a
guest's own address. `inner` is a machine in another network of the host, `foreign1` and `foreign2` are ports of another
bridge, `foreign` the host's own end of that. `owner` and `stranger` are users of the host with a socket each.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from firing import VNET_HEADER, FiringRange, Shot, open_ends
from lab import OTHER_USER, USER, Lab
from shots import LINK_MAC, OWN_OUTSIDE, SECOND
from sitelab import Site
from siteshots import HOST_INNER, HOST_INNER_MAC, INNER, INNER_MAC
from wire import BEYOND_MAC

from chslurm import site as product
from chslurm.network import UPLINK_GATEWAY, Tool

SLOTS = 4
_TAPS = {"beyond": "out0", "inner": "in0", "foreign1": "foreign1", "foreign2": "foreign2"}
_IP_SOURCE = slice(10 + 14 + 12, 10 + 14 + 16)


class SiteWire(FiringRange):
    """The product's network, made by root's own command."""

    def __init__(self, lab: Lab, *, iptables_ask: bool = False) -> None:
        self.lab = lab
        self.site = Site(lab)
        self._taps = {name: self._open("tap", tap)[0] for name, tap in _TAPS.items()}
        self._make_other_links()
        self.site.write_settings(f"TAP_OWNER={USER}\nFWD_IFACE=out0\nTAP_CT={SLOTS}")
        self.site.start()
        self._guests = product.Site(USER, "out0", SLOTS, guarded=True).guests
        self._taps |= {f"guest{slot}": self._open("tap", g.tap)[0] for slot, g in enumerate(self._guests, 1)}
        self._prepare(iptables_ask)
        links = self._open("witnesses", "chbr0", "foreign0")
        self._sockets = [socket.socket(fileno=fd) for fd in links]
        self.links = {fd: end for fd, end in zip(links[:2], self._sockets[:2], strict=True)}
        self._users = {
            name: socket.socket(fileno=self._open("speaker", user=user)[0])
            for name, user in (("owner", USER), ("stranger", OTHER_USER))
        }
        lab.stack.callback(self._close)

    def restore(self) -> None:
        """Load all filters of the product anew."""
        steps = product.make_steps(product.Site(USER, "out0", SLOTS, guarded=True))
        self.nft("flush ruleset\n" + "".join(step.text for step in steps if step.tool is Tool.NFT))

    # -- frames -------------------------------------------------------------------------------------------------------

    def send(self, shot: Shot) -> None:
        if user := self._users.get(shot.source):
            with suppress(OSError):  # it is told that it may not
                user.sendto(shot.mark, (SECOND, 7000))
        elif shot.source in ("bridge", "foreign"):
            self._sockets[shot.source == "foreign"].send(shot.frame)
        else:
            os.write(self._taps[shot.source], VNET_HEADER + shot.frame)

    def settle(self) -> None:
        time.sleep(0.001)  # the kernel does all of it while it is sent

    def list_ends(self) -> dict[int, str]:
        bridge, foreign, *stack = (end.fileno() for end in self._sockets)
        taps = {fd: name for name, fd in self._taps.items()}
        return {**taps, **dict.fromkeys(stack, "node"), bridge: "bridge", foreign: "foreign"}

    def name_end(self, end: str, frame: bytes) -> str:
        bare = end == "beyond" and frame[_IP_SOURCE] in {guest.ip.packed for guest in self._guests}
        return "bare" if bare else end

    # -- set-up -------------------------------------------------------------------------------------------------------

    def inside(self, argv: Sequence[str], text: str = "") -> str:
        done = subprocess.run(self.site.host.argv(*argv), input=text, capture_output=True, text=True, timeout=20,
                              check=False)  # fmt: skip
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout

    def _make_other_links(self) -> None:
        self.inside(
            ["ip", "-batch", "-"],
            f"link set out0 address {LINK_MAC} up\naddr add {OWN_OUTSIDE}/24 dev out0\n"
            f"neigh replace {UPLINK_GATEWAY} lladdr {BEYOND_MAC} dev out0 nud permanent\n"
            f"route replace default via {UPLINK_GATEWAY}\n"
            f"link set in0 address {HOST_INNER_MAC} up\naddr add {HOST_INNER}/24 dev in0\n"
            f"neigh replace {INNER} lladdr {INNER_MAC} dev in0 nud permanent\n"
            "link add foreign0 type bridge forward_delay 0\nlink set foreign0 up\n"
            "link set foreign1 master foreign0 up\nlink set foreign2 master foreign0 up\n",
        )
        self.inside(["sysctl", "-qw", "net.ipv4.conf.in0.forwarding=1"])

    def _prepare(self, iptables_ask: bool) -> None:
        """As in `wire`: only filters judge sources, all neighbours are known, and not the port of the fourth guest."""
        sysctls = [
            f"net.ipv4.conf.{link}.{key}"
            for link in ("all", "chbr0", "out0", "in0")
            for key in ("rp_filter=0", "accept_local=1", "route_localnet=1")
        ]
        more = [f"net.bridge.bridge-nf-call-iptables={iptables_ask:d}", "net.ipv4.icmp_ratemask=0"]
        self.inside(["sysctl", "-qw", *sysctls, *more])
        known = [f"neigh replace {g.ip} lladdr {g.mac} dev chbr0 nud permanent" for g in self._guests]
        self.inside(["ip", "-batch", "-"], "\n".join(known))
        ports = [f"fdb replace {g.mac} dev {g.tap} master static sticky" for g in self._guests[:3]]
        self.inside(["bridge", "-batch", "-"], "\n".join(ports))

    def _open(self, kind: str, *words: str, user: int = 0) -> Sequence[int]:
        """Descriptors of what `sockets.py` opens on the host, as a user."""
        who = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups")
        return open_ends(self.site.host.argv(*who), [str(self.lab.tools / "sockets.py"), kind, *words])

    def _close(self) -> None:
        for fd in self._taps.values():
            os.close(fd)
        for end in (*self._sockets, *self._users.values()):
            end.close()
