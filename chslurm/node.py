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
import traceback
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from chslurm.aftermath import tell_causes
from chslurm.errors import ChslurmError, ExitCode, explained
from chslurm.guest import Kernel, Offer, make_machine
from chslurm.guest_files import make_guest_files
from chslurm.host.accel import choose_accelerator, find_firmware, find_qemu, has_vhost
from chslurm.host.anyfabric import AnyFabric, start_any_fabric
from chslurm.host.attachpoint import make_attach_name
from chslurm.host.attachserver import AttachServer
from chslurm.host.bundle import read_boot_bundle
from chslurm.host.bystander import Bystander, start_bystander
from chslurm.host.console import Console
from chslurm.host.disks import check_unchanged, discard, make_guest_disks
from chslurm.host.keys import read_cluster_keys
from chslurm.host.lines import listen, tell
from chslurm.host.qemu import Qemu, start_qemu
from chslurm.host.relay import Stream
from chslurm.host.screen import find_display
from chslurm.host.sharedfiles import read_plan
from chslurm.host.shortlog import ShortLog
from chslurm.host.slurm import check_place
from chslurm.host.steward import Steward
from chslurm.host.tunnel import Tunnel
from chslurm.host.workstation import find_memory_folder_warning
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, Order, OrderKind
from chslurm.phases import CANCEL_SHARES, NOTICES, Phase
from chslurm.plan import Host, Mode, Plan


def run_node(
    plan_file: Path, *, cluster_id: str, digest: str, host_number: int | None, taps: Sequence[int] = ()
) -> int:
    """Run the guests of one host to their end. Returns the task's exit status: 0, or 70 when machinery failed.

    `taps` are those that the launcher has taken, when guests are in a network that root has made.
    """
    number = host_number or int(os.environ.get("SLURM_PROCID", "0")) + 1
    plan, nodes, status = None, list[Node](), 0
    try:
        plan = read_plan(plan_file, cluster_id=cluster_id, digest=digest)
        host = plan.host(number)
        check_place(plan, host, os.environ)
        # The holder of the namespaces is a fork of this process: made while there is no thread and no event loop.
        with start_any_fabric(plan, host, taps) as fabric:
            asyncio.run(_live(plan, host, fabric, nodes))
    except Exception as error:
        traceback.print_exc()
        tell(Event(EventKind.NODE_FAILED, number, text=str(explained(error))))
        status = int(ExitCode.MACHINERY)
    if plan and not any(node._hurried for node in nodes):  # else SLURM would kill us over it
        tell_causes(plan, number, [steward for node in nodes for steward in node.stewards], failed=bool(status))
    if not status:
        tell(Event(EventKind.NODE_DONE, number))
    return status


async def _live(plan: Plan, host: Host, fabric: AnyFabric, nodes: list[Node]) -> None:
    nodes.append(Node(plan, host, fabric))
    await nodes[0].live()


class Node:
    """One host while its guests live."""

    def __init__(self, plan: Plan, host: Host, fabric: AnyFabric) -> None:
        self.plan = plan
        self.host = host
        self.fabric = fabric
        self.job_dir = JobDir(Path(plan.job_dir))
        self.keys = read_cluster_keys(self.job_dir.keys(plan.cluster_id))
        self.tunnel = Tunnel(plan, host, fabric, self.keys)
        self.stewards: list[Steward] = []
        self._consoles: dict[int, Console] = {}  # by guest number
        name = make_attach_name(self.keys, host.number)
        self._attached = AttachServer(name, self._consoles, self._connect, lambda: self._tell(EventKind.STOP_ASKED))
        self._ends: list[asyncio.Task[None]] = []  # of the guests
        self._troubles: list[ChslurmError] = []  # with disks of guests that were gone
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard_s = time.monotonic()
        self._bystander: Bystander | None = None  # in a check of the network
        self._ending = self._hurried = False  # somebody has told the guests to end; SLURM may kill everything soon

    async def live(self) -> None:
        """The story. Raises ChslurmError when something of the host itself fails; its guests are gone by then."""
        self._tell(EventKind.NODE_UP)
        if self.fabric.warning:
            self._tell(EventKind.NODE_NOTE, text=self.fabric.warning)
        self._listen()
        self._begin(self._watch())
        try:
            await self._start_guests()
            self._begin(self._join())
            await self._until_all_are_gone()
            if self._failure.done():
                self._failure.result()
        except Exception as error:  # before the ends of the guests that follow from it, and would be taken for causes
            self._tell(EventKind.NODE_FAILED, text=str(explained(error)))
            raise
        finally:
            self._each(Steward.kill)  # those that are left when the host has failed
            await asyncio.gather(*self._ends)
            self._attached.close()
        if self._failure.done():
            self._failure.result()
        if self._troubles:
            raise self._troubles[0]

    async def _start_guests(self) -> None:
        """Start them one by one; looking and writing happens in a thread, so that the head is heard meanwhile."""
        accelerator, reason = choose_accelerator(self.plan.accelerator)
        qemu_program = find_qemu()
        image, vga, mode = self.plan.image, self.plan.vga, self.plan.mode
        display = await asyncio.to_thread(find_display, qemu_program, mode, os.environ) if vga else None
        await asyncio.to_thread(check_unchanged, image)
        bundle = await asyncio.to_thread(read_boot_bundle, Path(image.path), image.format)
        with bundle or nullcontext():
            kernel = Kernel(bundle.kernel_fd, bundle.initrd_fd, bundle.command_line) if bundle else None
            boots = f"kernel {bundle.version} from the image" if bundle else "the image's own boot loader"
            packets = "; packets by vhost-net" if (vhost := has_vhost()) else ""
            self._tell(EventKind.NODE_NOTE, text=f"guests run with {accelerator.upper()} ({reason}); {boots}{packets}")
            folders = {self.plan.disks.tmp_dir, self.plan.disks.overlay_dir} - {None}
            for warning in filter(None, map(find_memory_folder_warning, map(str, folders))):
                self._tell(EventKind.NODE_NOTE, text=warning)
            firmware = find_firmware() if kernel and not display else None  # the quick one knows no screens
            # SLURM's signals are for us: some process trackers give them to QEMU, too; TERM would be a pulled plug.
            deaf_to = (signal.SIGTERM, *NOTICES) if mode is Mode.CLUSTER else ()
            offer = Offer(accelerator, firmware, kernel, display, vhost)
            for guest, tap in zip(self.plan.guests_of(self.host), self.fabric.taps, strict=True):
                disks = await asyncio.to_thread(make_guest_disks, self.plan, guest)
                if self._ending or self._failure.done():
                    discard(disks)
                    break
                machine = make_machine(self.plan, guest, offer, disks.root, disks.temporary, tap)
                log = self.job_dir.guest_log(guest.id)
                logs = (ShortLog(path, self.plan.log_mib << 20) for path in (self.job_dir.console(guest.id), log))
                qemu = start_qemu(machine, *logs, program=qemu_program, deaf_to=deaf_to)
                self.stewards.append(Steward(guest, qemu, disks, log, tell))
                self._consoles[guest.id] = qemu.console
                self._ends.append(asyncio.create_task(self._see_out(self.stewards[-1])))
                self._tell(EventKind.GUEST_STARTED, guest=guest.id, status=qemu.process.pid)
        self.fabric.close_taps()
        if self.stewards:
            self._begin(self._tell_facts(self.stewards[0].qemu))

    async def _tell_facts(self, qemu: Qemu) -> None:
        await qemu.connected.wait()
        self._tell(EventKind.NODE_FACTS, text=f"QEMU {qemu.version}, Linux {os.uname().release}")

    async def _see_out(self, steward: Steward) -> None:
        """Wait for the end of a guest and put its disks away. Trouble with them is no reason to end the others."""
        await steward.see_out()
        self._attached.let_go(steward.guest.id)
        try:
            await steward.put_away(cleanup=self.plan.cleanup, hurry=self._hurried)
        except Exception as error:
            self._troubles.append(explained(error))

    async def _connect(self, number: int, port: int) -> Stream:
        """Connect the user to a port of a guest here."""
        if number not in self.host.guest_ids or not 1 <= port <= 65535:
            raise ChslurmError(f"can't connect to port {port} of guest {number}: it is not on {self.host.name}")
        return await self.fabric.connect(str(self.plan.address(self.plan.guests[number]).ip), port)

    async def _until_all_are_gone(self) -> None:
        ends = asyncio.gather(*self._ends)
        turns: list[asyncio.Future[Any]] = [ends, self._failure]
        await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)

    async def _join(self) -> None:
        """Complete the network, then tell the guests who they are."""
        from chslurm.host.keymaking import make_host_identity

        mtu = await self.tunnel.join()
        self._tell(EventKind.FABRIC_READY, mtu=mtu)
        self._bystander = await start_bystander(self.plan, self.host, self.fabric)
        for steward in self.stewards:
            identity = make_host_identity(self.plan, steward.guest, self.keys)
            files = make_guest_files(self.plan, steward.guest, self.keys, identity, mtu=mtu, environment=os.environ)
            steward.introduce(files)

    # -- what is heard ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        listen(self._on_order, lambda: self._wind_down("the head has ended"))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        for number in NOTICES:
            loop.add_signal_handler(number, self._on_notice, number.name.removeprefix("SIG"))
        loop.add_reader(self.fabric, self._on_fabric_loss)

    def _on_order(self, order: Order) -> None:
        self._heard_s = time.monotonic()
        match order.kind:
            case OrderKind.PEERS | OrderKind.MTU:
                self.tunnel.hear(order)
            case OrderKind.TRIAL if self._bystander:
                self._begin(self._bystander.take_turn(order.text))
            case OrderKind.RELEASE:
                self._each(lambda steward: steward.release(order.text))
            case OrderKind.SIGNAL:
                self._each(lambda steward: steward.signal(order.text))
            case OrderKind.POWER_DOWN:
                self._end_each(Steward.power_down)
            case OrderKind.QUIT:
                self._end_each(Steward.quit)
            case OrderKind.KILL:
                self._end_each(Steward.kill)

    def _on_signal(self, number: signal.Signals) -> None:
        self._tell(EventKind.NODE_TOLD_TO_END, text=number.name)
        self._wind_down(f"{number.name} came")

    def _on_notice(self, name: str) -> None:
        self._tell(EventKind.NODE_NOTE, text=f"{name} came to oneguest, for the job")
        self._each(lambda steward: steward.signal(name))

    def _on_fabric_loss(self) -> None:
        try:
            self.fabric.check()
        except ChslurmError as error:
            asyncio.get_running_loop().remove_reader(self.fabric)
            self._fail(error)

    async def _watch(self) -> None:
        """Say that we are here, and notice when the head is not."""
        limits = self.plan.deadlines
        slept_s = time.monotonic()
        while time.monotonic() < self._heard_s + limits.lost_s:
            await asyncio.sleep(limits.beat_s)
            gap_s = time.monotonic() - slept_s - limits.beat_s
            slept_s = time.monotonic()
            if gap_s > limits.beat_s:  # we were suspended: so may the head have been
                self._heard_s += gap_s
            self._tell(EventKind.PULSE)
        self._wind_down(f"the head was silent for {limits.lost_s:g} s")

    # -- the end ------------------------------------------------------------------------------------------------------

    def _wind_down(self, why: str) -> None:
        """End the guests without being told how: in order, within the time SLURM leaves us."""
        if not self._hurried:
            self._hurried = True
            self._tell(EventKind.NODE_NOTE, text=f"{why}: ending the guests here")
            self._begin(self._end_in_order(self.plan.deadlines.cancel_s))

    async def _end_in_order(self, within_s: float) -> None:
        ends = {Phase.POWERING_DOWN: Steward.power_down, Phase.QUITTING: Steward.quit, Phase.KILLING: Steward.kill}
        for phase, end in ends.items():
            self._end_each(end)
            if self._ends:
                await asyncio.wait(self._ends, timeout=within_s * CANCEL_SHARES[phase])

    def _end_each(self, end: Callable[[Steward], None]) -> None:
        self._ending = True
        self._each(end)

    def _fail(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(explained(error))

    def _each(self, act: Callable[[Steward], None]) -> None:
        for steward in self.stewards:
            if not steward.gone:
                act(steward)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the rest; its failure is the host's."""

        async def run() -> None:
            try:
                await work
            except Exception as error:
                self._fail(error)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, kind: EventKind, *, guest: int = -1, status: int = 0, text: str = "", mtu: int = 0) -> None:
        tell(Event(kind, self.host.number, guest=guest, status=status, text=text, mtu=mtu))
