# SPDX-License-Identifier: Apache-2.0
"""The network of one host where root has made it: TAPs are given, guests are reached from here, filters are root's.

It is to the task what `fabric.Fabric` is. Names, and ssh to this host, are relayed as on a rootless workstation: guests
ask their gateway, and root's rules lead what each sends to port 53 or 22 there to two ports on which we listen for it.
An answer to a guest passes only if it is ours, so nobody can listen in our place.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from chslurm.addresses import GuestAddress
from chslurm.errors import ChslurmError
from chslurm.guest import TapFds
from chslurm.host.nameserver import NameRelay, read_resolvers
from chslurm.host.namespaces import open_listener
from chslurm.host.relay import Stream, StreamRelay, relay_ssh
from chslurm.host.sitetaps import Taps
from chslurm.site import BRIDGE, make_relay_ports, make_site_guest
from chslurm.sitefilters import NAMES_PORT, SSH_PORT

_RTMGRP_LINK = 1
_CONNECT_TIMEOUT_S = 20.0


class LinkWatch:
    """Links that root has made, and that have to stay."""

    def __init__(self, names: Sequence[str]) -> None:
        """Watch links of these names. Raises ChslurmError when one is gone already."""
        self._names = tuple(names)
        self._links = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._links.bind((0, _RTMGRP_LINK))
        self._indexes = self._read_indexes()
        if 0 in self._indexes.values():
            raise _gone()

    def fileno(self) -> int:
        """Readable when something has happened to a link of this host."""
        return self._links.fileno()

    def check(self) -> None:
        """Raise ChslurmError when one of the links is gone, or another in its place."""
        with suppress(BlockingIOError, OSError):  # what was missed does not matter: we look ourselves
            while self._links.recv(65536):
                pass
        if self._read_indexes() != self._indexes:
            raise _gone()

    def close(self) -> None:
        """Watch no more."""
        self._links.close()

    def _read_indexes(self) -> dict[str, int]:
        """The numbers of our links: a link that was made anew has another."""
        numbers = {name: number for number, name in socket.if_nameindex()}
        return {name: numbers.get(name, 0) for name in self._names}


class GivenTaps:
    """What fabrics have in common whose TAPs root has made."""

    warning = ""
    """As `fabric.Fabric` has one: what root loads is loaded wholly, or there are no TAPs."""

    def __init__(self, taps: Sequence[int], links: Sequence[str]) -> None:
        """Take over `taps`, and watch `links`, which are there as long as the network is."""
        self._taps = Taps(taps)
        self._links = LinkWatch(links)

    @property
    def taps(self) -> tuple[TapFds, ...]:
        """Descriptors in slot order, ours until `close_taps`: one of each, as then no other program can have it."""
        return tuple((fd,) for fd in self._taps.fds)

    def fileno(self) -> int:
        """Readable when something has happened to a link of this host."""
        return self._links.fileno()

    def check(self) -> None:
        """Raise ChslurmError when links that our guests need are gone, or others in their place."""
        self._links.check()

    def close_taps(self) -> None:
        """Close our TAP descriptors, once QEMU has inherited them."""
        self._taps.close()

    def close(self) -> None:
        """Give the TAPs back, as far as QEMU has done so, too."""
        self.close_taps()
        self._links.close()


class TapFabric(GivenTaps):
    """The network of the guests here; made by `use_site_network`."""

    def __init__(self, slots: Sequence[int], taps: Sequence[int]) -> None:
        self._guests = {slot: make_site_guest(slot) for slot in slots}
        self._relays: list[NameRelay | StreamRelay] = []
        super().__init__(taps, (BRIDGE, *(guest.tap for guest in self._guests.values())))

    def join_outside(self) -> str:
        """Let guests reach names and our ssh server; return how they reach the outside. Call in the event loop."""
        resolvers = read_resolvers()
        for slot, guest in self._guests.items():
            ports = make_relay_ports(slot)
            udp, tcp = (_listen(guest, kind, ports[NAMES_PORT]) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
            self._relays.append(NameRelay(udp, tcp, resolvers))
            self._relays.append(relay_ssh(_listen(guest, socket.SOCK_STREAM, ports[SSH_PORT])))
        return f"outside by NAT of this host, through {BRIDGE}; names from {', '.join(resolvers)}"

    async def connect(self, address: str, port: int) -> Stream:
        """Connect to a guest. Raises ChslurmError when it does not answer."""
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                return await asyncio.open_connection(address, port)
        except (OSError, TimeoutError) as error:
            why = getattr(error, "strerror", None) or f"no answer in {_CONNECT_TIMEOUT_S:g} s"
            hint = "has the guest booted?"
            raise ChslurmError(f"can't connect to {address} port {port}: {why}", hint=hint) from error

    def close(self) -> None:
        """End the relays, too."""
        for relay in self._relays:
            relay.close()
        super().close()


@contextmanager
def use_site_network(slots: Sequence[int], taps: Sequence[int]) -> Iterator[TapFabric]:
    """Use TAPs that the launcher has taken for the guests in `slots`; they are ours, and closed in the end."""
    fabric = TapFabric(slots, taps)
    try:
        yield fabric
    finally:
        fabric.close()


def _gone() -> ChslurmError:
    hint = "root has stopped or restarted it: start the cluster again"
    return ChslurmError("the network that root made here is gone, and with it that of the guests", hint=hint)


def _listen(guest: GuestAddress, kind: socket.SocketKind, port: int) -> socket.socket:
    gateway = str(guest.gateway)
    try:
        return socket.socket(fileno=open_listener(kind, gateway, port))
    except OSError as error:
        taken = "another program has this port" if error.errno == errno.EADDRINUSE else error.strerror
        hint = "--network rootless does without it"
        raise ChslurmError(
            f"can't relay names and ssh for {guest.ip}: {gateway} port {port}: {taken}", hint=hint
        ) from error
