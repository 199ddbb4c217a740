# SPDX-License-Identifier: Apache-2.0
"""The story of one host: network -> disks -> guests -> watch -> clean up. It is what `oneguest` runs in a step.

It hears orders on standard input and tells events on standard output. Whatever it makes on the node it holds by
descriptor or as a child: when it is killed, nothing is left. It needs nobody to end well: when the head falls silent,
or SLURM says TERM, it winds its guests down by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chslurm.errors import ChslurmError
from chslurm.guest import Kernel, Offer, make_machine
from chslurm.guest_files import make_guest_files
from chslurm.host.accel import choose_accelerator, find_firmware
from chslurm.host.bundle import read_boot_bundle
from chslurm.host.disks import make_guest_disks
from chslurm.host.fabric import Fabric, start_fabric
from chslurm.host.files import read_plan
from chslurm.host.keys import make_token, read_cluster_keys
from chslurm.host.lines import listen, tell
from chslurm.host.qemu import start_qemu
from chslurm.host.steward import Steward
from chslurm.host.tunnel import Tunnel
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, Order, OrderKind
from chslurm.network import make_host_network
from chslurm.plan import Host, Plan


def run_node(plan_file: Path, *, cluster_id: str, digest: str, host_number: int | None) -> int:
    """Run the guests of one host to their end. Returns the task's exit status: 0, or 70 when machinery failed."""
    number = host_number or int(os.environ.get("SLURM_PROCID", "0")) + 1
    try:
        plan = read_plan(plan_file, cluster_id=cluster_id, digest=digest)
        host = plan.host(number)
        network = make_host_network(number, host.guest_ct, plan.mode, len(plan.hosts))
        # The holder of the namespaces is a fork of this process: made while there is no thread and no event loop.
        with start_fabric(network, Path(JobDir(Path(plan.job_dir)).out)) as fabric:
            asyncio.run(_live(plan, host, fabric))
    except ChslurmError as error:
        tell(Event(EventKind.NODE_FAILED, number, text=str(error)))
        return int(error.exit_code)
    tell(Event(EventKind.NODE_DONE, number))
    return 0


async def _live(plan: Plan, host: Host, fabric: Fabric) -> None:
    await Node(plan, host, fabric).live()


class Node:
    """One host while its guests live."""

    def __init__(self, plan: Plan, host: Host, fabric: Fabric) -> None:
        self.plan = plan
        self.host = host
        self.fabric = fabric
        self.job_dir = JobDir(Path(plan.job_dir))
        self.keys = read_cluster_keys(self.job_dir.keys)
        self.tunnel = Tunnel(plan, host, fabric, make_token(self.keys, "path probe"))
        self.stewards: list[Steward] = []
        self._heard_s = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[None] = loop.create_future()
        self._ends: asyncio.Future[list[None]] = loop.create_future()
        self._winding_down = False

    async def live(self) -> None:
        """The story. Raises ChslurmError when something of the host itself fails; its guests are gone by then."""
        self._tell(EventKind.NODE_UP)
        self._listen()
        with ExitStack() as stack:
            stack.callback(self._each, Steward.kill)
            self._start_guests(stack)
            self._ends = asyncio.gather(*(steward.see_out() for steward in self.stewards))
            self._begin(self._join())
            self._begin(self._watch())
            turns: list[asyncio.Future[Any]] = [self._ends, self._failure]
            await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)
            self._each(Steward.kill)  # those that are left when the host has failed
            await self._ends
        for steward in self.stewards:
            steward.put_away(cleanup=self.plan.cleanup)
        if self._failure.done():
            self._failure.result()

    def _start_guests(self, stack: ExitStack) -> None:
        offer = self._look_around(stack)
        for guest, tap in zip(self.plan.guests_of(self.host), self.fabric.taps, strict=True):
            disks = make_guest_disks(self.plan, guest)
            machine = make_machine(self.plan, guest, offer, disks.root, disks.temporary, tap)
            log = self.job_dir.guest_log(guest.id)
            qemu = start_qemu(machine, log)
            self.stewards.append(Steward(guest, qemu, disks, log, tell))
            self._tell(EventKind.GUEST_STARTED, guest=guest.id, status=qemu.process.pid)
        self.fabric.close_taps()

    def _look_around(self, stack: ExitStack) -> Offer:
        """Find out what this host offers and tell the user what was chosen, and why."""
        accelerator, reason = choose_accelerator(self.plan.accelerator)
        bundle = read_boot_bundle(Path(self.plan.image.path), self.plan.image.format)
        if bundle is None:
            boots, firmware, kernel = "the image's own boot loader", None, None
        else:
            boots, firmware = f"kernel {bundle.version} from the image", find_firmware()
            kernel = Kernel(bundle.kernel_fd, bundle.initrd_fd, bundle.command_line)
            stack.enter_context(bundle)
        self._tell(EventKind.NODE_NOTE, text=f"{accelerator.upper()} ({reason}); {boots}")
        return Offer(accelerator, firmware, kernel)

    async def _join(self) -> None:
        """Complete the network, then tell the guests who they are."""
        from chslurm.host.keymaking import make_host_identity

        mtu = await self.tunnel.join()
        self._tell(EventKind.FABRIC_READY, mtu=mtu)
        for steward in self.stewards:
            identity = make_host_identity(self.keys, steward.guest)
            files = make_guest_files(self.plan, steward.guest, self.keys, identity, mtu=mtu, environment=os.environ)
            steward.introduce(files)

    # -- what is heard ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        listen(self._on_order, lambda: self._wind_down("the head has ended"))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_reader(self.fabric, self._on_fabric_loss)

    def _on_order(self, order: Order) -> None:
        self._heard_s = time.monotonic()
        match order.kind:
            case OrderKind.PEERS | OrderKind.MTU:
                self.tunnel.hear(order)
            case OrderKind.RELEASE:
                self._each(lambda steward: steward.release(order.text))
            case OrderKind.POWER_DOWN:
                self._each(Steward.power_down)
            case OrderKind.QUIT:
                self._each(Steward.quit)
            case OrderKind.KILL:
                self._each(Steward.kill)

    def _on_signal(self, number: signal.Signals) -> None:
        self._tell(EventKind.NODE_TOLD_TO_END, text=number.name)
        self._wind_down(f"{number.name} came")

    def _on_fabric_loss(self) -> None:
        asyncio.get_running_loop().remove_reader(self.fabric)
        try:
            self.fabric.check()
        except ChslurmError as error:
            self._fail(error)

    async def _watch(self) -> None:
        """Say that we are here, and notice when the head is not."""
        limits = self.plan.deadlines
        while time.monotonic() < self._heard_s + limits.lost_s:
            await asyncio.sleep(limits.beat_s)
            self._tell(EventKind.PULSE)
        self._wind_down(f"the head was silent for {limits.lost_s:g} s")

    # -- the end ------------------------------------------------------------------------------------------------------

    def _wind_down(self, why: str) -> None:
        """End the guests without being told how: in order, within the time SLURM leaves us."""
        if not self._winding_down:
            self._winding_down = True
            self._tell(EventKind.NODE_NOTE, text=f"{why}: ending the guests here")
            self._begin(self._end_in_order(self.plan.deadlines.cancel_s / 3))

    async def _end_in_order(self, patience_s: float) -> None:
        for end in (Steward.power_down, Steward.quit, Steward.kill):
            self._each(end)
            await asyncio.wait({self._ends}, timeout=patience_s)

    def _fail(self, error: ChslurmError) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    # -- small things -------------------------------------------------------------------------------------------------

    def _each(self, act: Callable[[Steward], None]) -> None:
        for steward in self.stewards:
            if not steward.gone:
                act(steward)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the rest; its failure is the host's."""

        async def run() -> None:
            try:
                await work
            except ChslurmError as error:
                self._fail(error)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, kind: EventKind, *, guest: int = -1, status: int = 0, text: str = "", mtu: int = 0) -> None:
        tell(Event(kind, self.host.number, guest=guest, status=status, text=text, mtu=mtu))
