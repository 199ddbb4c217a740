# SPDX-License-Identifier: Apache-2.0
"""Runs in the box: start all guests of a plan at once as bare QEMUs, and print when they were ready.

Argument: PLAN

Disks, kernel and the texts that tell a guest who it is are made before the clock starts. Then there is nothing but
QEMU and this loop, which answers the agents' first word and notes their `ready`. The command lines are those of the
cluster but for the network: the device is there, and behind it QEMU alone.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from machine import read_cpu_s

from chslurm.guest import Kernel, Offer, make_machine, make_qemu_argv
from chslurm.guest_files import make_guest_files
from chslurm.host.accel import choose_accelerator, find_firmware
from chslurm.host.bundle import read_boot_bundle
from chslurm.host.disks import make_guest_disks
from chslurm.host.keymaking import make_cluster_keys, make_host_identity
from chslurm.host.process import spawn
from chslurm.messages import GuestOrder, encode
from chslurm.plan import Guest, Plan, plan_from_json

MTU = 1450


@dataclass(slots=True)
class Bare:
    """One guest with everything it needs, before and after its start."""

    argv: list[str]
    fds: tuple[int, ...]
    control: socket.socket
    others: tuple[socket.socket, ...]  # monitor and console: nobody is there, but they have to be open
    identity: bytes
    heard: bytes = b""
    process: subprocess.Popen[bytes] | None = None
    ready_s: float = 0.0
    cpu_s: float = 0.0


def make_offer(plan: Plan) -> Offer:
    """Return what every host of this machine finds out for itself."""
    accelerator, _ = choose_accelerator(plan.accelerator)
    bundle = read_boot_bundle(Path(plan.image.path), plan.image.format)
    if bundle is None:
        return Offer(accelerator, None, None)
    return Offer(accelerator, find_firmware(), Kernel(bundle.kernel_fd, bundle.initrd_fd, bundle.command_line))


def make_bare(plan: Plan, guest: Guest, offer: Offer) -> Bare:
    """Make the guest's disks, sockets, command line and identity."""
    disks = make_guest_disks(plan, guest)
    control, qemus_control = socket.socketpair()
    monitor, qemus_monitor = socket.socketpair()
    console, qemus_console = socket.socketpair()
    machine = make_machine(plan, guest, offer, disks.root, disks.temporary, tap_fd=-1)
    machine = replace(
        machine,
        qmp_fd=qemus_monitor.detach(),
        control_fd=qemus_control.detach(),
        console_fd=qemus_console.detach(),
    )
    argv = [re.sub(r"^tap,id=net,.*", "user,id=net,restrict=on", word) for word in make_qemu_argv(machine)]
    keys = make_cluster_keys(plan.cluster_id)  # those of the cluster are gone with it
    files = make_guest_files(plan, guest, keys, make_host_identity(plan, guest, keys), mtu=MTU, environment=os.environ)
    orders = [GuestOrder(op="put", name=file.name, mode=f"{file.mode:04o}", text=file.text) for file in files]
    orders += [GuestOrder(op="clock", unix_s=round(time.time(), 3)), GuestOrder(op="boot")]
    fds = tuple(fd for fd in machine.fds if fd >= 0)
    return Bare(argv, fds, control, (monitor, console), b"".join(map(encode, orders)))


def hear(guest: Bare) -> None:
    """Take in what the agent says: tell it who it is, or note that it is ready."""
    data = guest.control.recv(65536)
    assert data
    assert guest.process
    *lines, guest.heard = (guest.heard + data).split(b"\n")
    for line in lines:
        word = json.loads(line)
        if word["event"] == "hello" and guest.identity:
            guest.control.sendall(guest.identity)
            guest.identity = b""
        elif word["event"] == "ready":
            guest.ready_s, guest.cpu_s = time.monotonic(), read_cpu_s(guest.process.pid)
        elif word["event"] == "failed":
            raise SystemExit(f"a guest failed: {word['text']}")


def run(guests: list[Bare]) -> float:
    """Start all guests, wait until they are ready, kill them; return the time of the start."""
    begin_s = time.monotonic()
    try:
        with selectors.DefaultSelector() as selector:
            for guest in guests:
                guest.process = spawn(guest.argv, pass_fds=guest.fds)
                selector.register(guest.control, selectors.EVENT_READ, guest)
            while not all(guest.ready_s for guest in guests):
                for key, _ in selector.select():
                    hear(key.data)
    finally:
        for guest in guests:
            if guest.process:
                guest.process.kill()
                guest.process.wait()
    return begin_s


plan = plan_from_json(Path(sys.argv[1]).read_bytes())
offer = make_offer(plan)
guests = [make_bare(plan, guest, offer) for guest in plan.guests]
begin_s = run(guests)
result = {
    "ready_s": round(max(guest.ready_s for guest in guests) - begin_s, 3),
    "qemu_cpu_s": [guest.cpu_s for guest in guests],
    "argv": [guest.argv for guest in guests],
}
print(json.dumps(result))
