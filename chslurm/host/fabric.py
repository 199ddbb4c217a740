# SPDX-License-Identifier: Apache-2.0
"""The rootless network of one host: started, joined to the outside or to other hosts, watched, and gone with us.

    with start_fabric(network, log_dir) as fabric:      before the event loop; bridge and TAPs only, so that it is fast
        ...start QEMU with fabric.taps...; fabric.close_taps()
        fabric.join_outside()                           workstation, in the event loop, while guests boot
        fabric.open_tunnel(peers, vni, path_mtu, ...)   cluster of several hosts, likewise
        loop.add_reader(fabric, ...)                    readable: the holder or pasta has died; check() says which

On disk there are only log files. Any one of node process, holder and pasta may be killed: the others end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from chslurm.errors import ChslurmError
from chslurm.filters import Family
from chslurm.guest import TapFds
from chslurm.host import tunnelport
from chslurm.host.nameserver import NameRelay, read_resolvers
from chslurm.host.netholder import Holder, start_holder
from chslurm.host.pasta import (
    Joiner,
    find_interface,
    sends_from_one_socket,
    start_outside,
    start_outside_slirp,
    start_tunnel_carrier,
)
from chslurm.host.relay import SSH_PORT, StreamRelay, relay_ssh
from chslurm.linkfilters import render_refusals
from chslurm.network import HostNetwork, Place, make_outside_steps
from chslurm.tunnel import Peer, make_tunnel_steps
from chslurm.wireguard import HostKeys

_LINK_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 20.0


class Fabric:
    """The running network of one host; made by `start_fabric`."""

    def __init__(
        self, network: HostNetwork, holder: Holder, taps: Sequence[TapFds], log_dir: Path, link_s: float
    ) -> None:
        self.network = network
        self.taps = tuple(taps)  # in slot order, ours until close_taps
        self._holder = holder
        self._log_dir = log_dir
        self._link_s = link_s
        self._joiner: Joiner | None = None
        self._relays: list[NameRelay | StreamRelay] = []
        self._port: socket.socket | None = None  # guards the tunnel's
        self._watch = select.epoll()
        self._watch.register(holder, select.EPOLLIN)

    @property
    def holder_pid(self) -> int:
        """For `nsenter --target PID --user --preserve-credentials --net`: a process in the guests' network."""
        return self._holder.pid

    def fileno(self) -> int:
        """Readable when something this network needs has died."""
        return self._watch.fileno()

    def check(self) -> None:
        """Raise ChslurmError naming the process that has died and its log."""
        self._holder.check()
        if self._joiner:
            self._joiner.check()

    def log(self, helper: str) -> Path:
        """Where a network helper of this host writes."""
        return self._log_dir / f"net_{self.network.host}_{helper}.out"

    @property
    def warning(self) -> str:
        """What the user should know about this network; empty when all is as it should be."""
        return render_refusals(self._holder.refused)

    @property
    def joined(self) -> bool:
        """Whether something carries packets to others or the outside."""
        return self._joiner is not None

    def close_taps(self) -> None:
        """Close our TAP descriptors, once QEMU has inherited them: a TAP lives as long as its last descriptor."""
        for fd in chain.from_iterable(self.taps):
            os.close(fd)
        self.taps = ()

    def join_outside(self) -> str:
        """Let guests reach the outside, names and our ssh server; return how. Call in the event loop, which relays."""
        assert self.network.nameserver
        how = self._start_outside()
        self._holder.apply(make_outside_steps(self.network))
        gateway, resolvers = str(self.network.gateway), read_resolvers()
        udp, tcp = (self._holder.listen(kind, gateway, 53) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        self._relays.append(NameRelay(udp, tcp, resolvers))
        self._relays.append(relay_ssh(self._holder.listen(socket.SOCK_STREAM, gateway, SSH_PORT)))
        return f"{how}; names from {', '.join(resolvers)}"

    def find_wireguard_obstacle(self) -> str:
        """Return why this host can't make WireGuard, empty when it can: it is tried."""
        return self._holder.find_wireguard_obstacle()

    def open_tunnel(
        self,
        peers: Sequence[Peer],
        vni: int,
        path_mtu: int,
        reserved: socket.socket,
        keys: HostKeys | None = None,
    ) -> bool:
        """Join the other hosts. `peers` names all hosts, this one too; `reserved` holds our UDP port, and is closed.

        With `keys` by WireGuard, else by VXLAN. Returns whether the port is kept from other users of the node: with a
        pasta that makes sockets for each peer it can't be. Raises ChslurmError when pasta or the kernel refuses, or
        somebody else has the port.
        """
        own = next(peer for peer in peers if peer.host_number == self.network.host)
        guarded = sends_from_one_socket()
        self._port = socket.socket(fileno=reserved.detach())
        tunnelport.lend(self._port)
        uplink = self._holder.uplink_path
        carrier = start_tunnel_carrier(self._holder.pid, uplink, own.address, own.udp_port, self.log("pasta"))
        self._adopt(carrier, Place.UPLINK)
        if guarded:
            tunnelport.guard(self._port)
        else:
            self._port.close()
        tunnelport.check_owner(own.udp_port)
        if keys:
            self._holder.keep_key(keys.private)
        self._holder.apply(make_tunnel_steps(self.network, peers, vni, path_mtu, keys.public if keys else None))
        return guarded

    def join_trial(self) -> tuple[socket.socket, socket.socket]:
        """Return what a check of the network needs: a witness of the bridge, and a TCP service at the gateway."""
        return self._holder.open_witness("br0"), self._holder.listen(socket.SOCK_STREAM, str(self.network.gateway), 0)

    def filter_without(self, families: Sequence[Family]) -> None:
        """Take filters of these families away, and have all others: for a check that wants to see harm."""
        self._holder.filter_without(families)

    async def connect(self, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a guest from inside its network. Raises ChslurmError when it does not answer."""
        return await connect_from(self._holder, address, port)

    def close(self) -> None:
        """End everything; nothing of the network is left but what QEMU still has open."""
        for relay in self._relays:
            relay.close()
        self._watch.close()
        self.close_taps()
        if self._joiner:
            self._joiner.end()
        if self._port:
            self._port.close()
        self._holder.end()

    def _start_outside(self) -> str:
        pid, log = self._holder.pid, self.log("pasta")
        reason = "pasta is not installed"
        if shutil.which("pasta"):
            interface = find_interface()
            try:
                self._adopt(start_outside(pid, interface, log), Place.GUESTS)
            except ChslurmError as error:
                reason = str(error)
            else:
                return f"outside by pasta over {interface}"
        if not shutil.which("slirp4netns"):
            raise ChslurmError(
                f"can't join guests to the outside: {reason}", hint="install pasta (package passt) or slirp4netns"
            )
        self._adopt(start_outside_slirp(pid, self.log("slirp4netns")), Place.GUESTS)
        return f"outside by slirp4netns, because {reason}"

    def _adopt(self, joiner: Joiner, place: Place) -> None:
        """Wait until the helper has made its link, then watch it and let the holder guard it."""
        try:
            self._holder.guard(joiner.process.pid)
            deadline = time.monotonic() + self._link_s
            while not self._holder.has_link(place, "up0"):
                joiner.check()
                if time.monotonic() > deadline:
                    raise ChslurmError(f"{joiner.name} made no link in {self._link_s:g} s", hint=f"see {joiner.log}")
                time.sleep(0.003)
        except BaseException:
            joiner.end()
            raise
        self._joiner = joiner
        self._watch.register(joiner.pidfd, select.EPOLLIN)


@contextlib.contextmanager
def start_fabric(
    network: HostNetwork, log_dir: Path, queue_cts: Sequence[int] = (), link_s: float = _LINK_TIMEOUT_S
) -> Iterator[Fabric]:
    """Make namespaces, bridge, filters and TAPs; end them, and whatever joined them to others, on leaving.

    `queue_cts` says how many queues each TAP has, in slot order; without it one. What joins it to others may take
    `link_s`. Call from the main thread, before any other thread or an event loop exists. Raises ChslurmError.
    """
    holder, fds = start_holder(network, log_dir / f"net_{network.host}_holder.out", queue_cts)
    left = iter(fds)
    taps = [tuple(islice(left, queue_ct)) for queue_ct in queue_cts or [1] * len(network.guests)]
    fabric = Fabric(network, holder, taps, log_dir, link_s)
    try:
        yield fabric
    finally:
        fabric.close()


async def connect_from(holder: Holder, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a guest from the namespace of a holder. Raises ChslurmError when it does not answer."""
    end = holder.make_socket()
    end.setblocking(False)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(end, (address, port))
    except (OSError, TimeoutError) as error:
        end.close()
        why = getattr(error, "strerror", None) or f"no answer in {_CONNECT_TIMEOUT_S:g} s"
        hint = "has the guest booted?"
        raise ChslurmError(f"can't connect to {address} port {port}: {why}", hint=hint) from error
    return await asyncio.open_connection(sock=end)


def find_other(names: Iterable[str], own: str) -> str:
    """Return a machine toward which our address is looked for; empty when there is no other.

    It is where srun runs or, when SLURM does not say, another host of these.
    """
    other = next((name for name in names if name != own), "")
    return (os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or other) if other else ""


def own_address(toward: str) -> str:
    """Return the address this host uses toward another (nothing is sent). Raises ChslurmError without a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((toward, 9))
        except OSError as error:
            raise ChslurmError(
                f"can't reach {toward}: {error.strerror}", hint="all hosts need IPv4 between them"
            ) from error
        return str(probe.getsockname()[0])
