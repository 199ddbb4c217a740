# SPDX-License-Identifier: Apache-2.0
"""TAPs that root has made for us: found, and taken. A TAP that is open is nobody else's, whoever was first.

That a TAP is up in the bridge says that all filters are loaded: root brings up no link before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import struct
from collections.abc import Iterable
from contextlib import suppress

from chslurm.errors import ChslurmError
from chslurm.host.links import has_link, read_links
from chslurm.plan import Mode, NetworkKind, Plan
from chslurm.planner import SiteOffer
from chslurm.site import BRIDGE, find_slot, make_tap_name

_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TAP_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR: as QEMU wants it, and as root made it


class TapTaken(ChslurmError):
    """Another cluster was faster."""


def find_site_offer() -> SiteOffer | None:
    """Return the TAPs that this user can have on this host now; None where root has made no network.

    None is opened for that: whoever looks at the same time would take it for one in use.
    """
    if not has_link(BRIDGE):
        return None
    links = [link for link in read_links().values() if find_slot(link.name) and link.master == BRIDGE and link.up]
    names = _own_names()
    owned = [link for link in links if link.user in names]
    free = sorted(slot for link in owned if not link.carrier and (slot := find_slot(link.name)))
    counts = ((len(owned) - len(free), "in use"), (len(links) - len(owned), "of another user"))
    words = [f"{len(free)} of {len(links)} TAPs free", *(f"{count} {what}" for count, what in counts if count)]
    return SiteOffer(tuple(free), ", ".join(words))


def _own_names() -> set[str]:
    """How `ip` may call us."""
    with suppress(KeyError):
        return {str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name}
    return {str(os.getuid())}


class Taps:
    """Descriptors of TAPs, which are ours until they are closed."""

    def __init__(self, fds: Iterable[int]) -> None:
        """Take over `fds`."""
        self.fds = tuple(fds)

    def close(self) -> None:
        """Close them, once; whoever has inherited them has them still."""
        fds, self.fds = self.fds, ()
        for fd in fds:
            os.close(fd)


def take_site_taps(plan: Plan) -> Taps:
    """Open the TAPs that the plan is about, in the order of guests; none when the network is our own.

    Raises TapTaken when another cluster has one of them by now, ChslurmError.
    """
    taps = Taps(())
    try:
        for guest in plan.guests if plan.network is NetworkKind.SITE and plan.mode is Mode.WORKSTATION else ():
            taps.fds += (_take(make_tap_name(guest.slot)),)
    except BaseException:
        taps.close()
        raise
    return taps


def open_site_tap(name: str) -> int:
    """Open a TAP that is there and return its descriptor. Raises OSError: EBUSY, or EPERM for that of another user."""
    fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_FLAGS))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _take(name: str) -> int:
    try:
        return open_site_tap(name)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise TapTaken(f"can't use {name}: another cluster has it", hint="start again") from error
        hint = "--network rootless does without it"
        raise ChslurmError(f"can't use {name}: {error.strerror}", hint=hint) from error
