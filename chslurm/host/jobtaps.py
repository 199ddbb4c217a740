# SPDX-License-Identifier: Apache-2.0
"""The network of one host where root's prolog has made it for our job: found, taken, used. Filters are root's.

It is to the task what `fabric.Fabric` is. Guests are at TAPs in the node's own namespace, where nobody has an address
in their network. The user's own way to them is one more TAP, whose frames are passed on to a namespace of ours.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from chslurm.errors import ChslurmError
from chslurm.host.fabric import connect_from
from chslurm.host.links import count_sent, find_link_alias
from chslurm.host.netholder import Holder, start_holder
from chslurm.host.relay import Stream
from chslurm.host.sitetaps import Taps, open_site_tap
from chslurm.host.tapfabric import GivenTaps
from chslurm.jobnet import JobNames, JobOffer, make_port_network, parse_alias
from chslurm.plan import Host, NetworkKind, Plan, TunnelKind

_PORT = "port0"
_FRAME_BYTES = 65536 + 64
OPEN = "root's has no filters: it is for the controls of chslurm net check alone"
_JOINTS: dict[str, str] = {
    TunnelKind.WIREGUARD: "WireGuard: encrypted and authenticated",
    TunnelKind.VXLAN: "VXLAN: not encrypted or authenticated",
}


class JobFabric(GivenTaps):
    """The network of the guests here; made by `use_job_network`."""

    def __init__(self, names: JobNames, offer: JobOffer, taps: Taps, log: Path) -> None:
        """Take over `taps`: those of guests, then the user's own."""
        self.offer, self._names = offer, names
        *guests, self._port = taps.fds
        super().__init__(guests, [names.bridge, *(names.tap(slot) for slot in range(1, len(guests) + 1))])
        self._holder: Holder | None = None
        self._own_port = -1
        self._obstacle = ""
        try:
            self._holder, (self._own_port,) = start_holder(make_port_network(offer, _PORT), log)
        except ChslurmError as error:
            self._obstacle = str(error)

    def describe(self) -> str:
        """Return a line for the user."""
        way = f"; without a way from here to guests ({self._obstacle})" if self._obstacle else ""
        joint = f", hosts joined by {_JOINTS[self.offer.tunnel]}" if self.offer.tunnel in _JOINTS else ""
        return f"network: site, made by root for this job{joint}{way}"

    @property
    def vxlan(self) -> tuple[int, int]:
        """The UDP port and the number of the tunnel; zeros when it is another, or none."""
        return (self.offer.port, self._names.vni) if self.offer.tunnel == TunnelKind.VXLAN else (0, 0)

    def count_gateway_frames(self) -> int:
        """Return how many frames the bridge has ever passed to the gateway."""
        return count_sent(self._names.veth)

    async def connect(self, address: str, port: int) -> Stream:
        """Connect to a guest. Raises ChslurmError when it does not answer, or there is no way."""
        if self._holder is None:
            raise ChslurmError(
                f"can't connect to {address} port {port}: in a network made by root that takes a user namespace: "
                f"{self._obstacle}"
            )
        self._begin_passing()
        return await connect_from(self._holder, address, port)

    def close(self) -> None:
        """End the user's own way, too."""
        super().close()
        for fd in {self._port, self._own_port} - {-1}:
            os.close(fd)
        if self._holder:
            self._holder.end()

    def _begin_passing(self) -> None:
        loop = asyncio.get_running_loop()
        for source, target in ((self._port, self._own_port), (self._own_port, self._port)):
            loop.add_reader(source, self._pass, source, target)

    def _pass(self, source: int, target: int) -> None:
        """Pass a frame on, with the header that both TAPs have; what has no room is lost, as on any wire."""
        try:
            frame = os.read(source, _FRAME_BYTES)
        except BlockingIOError:
            return
        except OSError:  # the link is gone; see `check`
            asyncio.get_running_loop().remove_reader(source)
            return
        with suppress(OSError):
            os.write(target, frame)


def find_job_network(plan: Plan, host: Host) -> tuple[JobOffer | None, str]:
    """Return the network that root has made for our job on this host, if it is one for this plan, and why it is not.

    Raises ChslurmError when the plan demands one that is not there.
    """
    if plan.network is NetworkKind.ROOTLESS or not plan.slurm_job_id:
        return None, ""
    text = find_link_alias(JobNames(int(plan.slurm_job_id)).bridge)
    offer, needed = parse_alias(text), max(other.guest_ct for other in plan.hosts)
    why = ""
    if offer is None:
        why = "root has made none for this job"
    elif (offer.host, offer.host_ct) != (host.number, len(plan.hosts)):
        why = f"root's is for node {offer.host} of {offer.host_ct}, this is host {host.number} of {len(plan.hosts)}"
    elif offer.open != plan.control:
        why = "root's has filters, a control needs one without" if plan.control else OPEN
    elif offer.tap_ct < needed:
        why = f"root's has room for {offer.tap_ct} guests on each node, {needed} needed"
    elif plan.tunnel is TunnelKind.WIREGUARD and offer.tunnel == TunnelKind.VXLAN:
        why = "root's joins hosts by VXLAN, --tunnel wireguard was asked for"
    if why and plan.network is NetworkKind.SITE:
        raise ChslurmError(f"can't use a network made by root on {host.name}: {why}", hint="leave out --network site")
    return (None, "" if offer is None else why) if why else (offer, "")


@contextmanager
def use_job_network(plan: Plan, host: Host, offer: JobOffer, log_dir: Path) -> Iterator[JobFabric]:
    """Use the TAPs of our job's network. Call before any thread or event loop exists. Raises ChslurmError."""
    names = JobNames(int(plan.slurm_job_id))
    slots = [guest.slot for guest in plan.guests_of(host)]
    taps = take_job_taps(names, [*slots, plan.layout.most_guests])
    fabric = JobFabric(names, offer, taps, log_dir / f"net_{host.number}_holder.out")
    try:
        yield fabric
    finally:
        fabric.close()


def take_job_taps(names: JobNames, slots: Sequence[int]) -> Taps:
    """Open TAPs of a job's network, which are ours then. Raises ChslurmError."""
    taps = Taps(())
    try:
        for slot in slots:
            taps.fds += (open_site_tap(names.tap(slot)),)
    except OSError as error:
        taps.close()
        used = "another cluster in this job has it" if error.errno == errno.EBUSY else error.strerror
        hint = "use --network rootless"
        raise ChslurmError(f"can't use {names.tap(slot)}, made by root: {used}", hint=hint) from error
    return taps
