# SPDX-License-Identifier: Apache-2.0
"""What one guest is made of: QEMU's command line, as a pure function of the plan and of what the host found and opened.

Everything a guest needs from its host comes as an open descriptor or as a path that was checked; QEMU itself opens no
network, starts no program and keeps no right that the user does not have. Argument syntax: qemu(1), QEMU 7.2 or newer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from chslurm.jobdir import JobDir
from chslurm.plan import Accelerator, Guest, Image, Plan

CONTROL_PORT = "chslurm.control"
JOB_OUTPUT_PORT = "chslurm.job.out"
JOB_ERRORS_PORT = "chslurm.job.err"

TRANSLATION_BUFFER_MIB = 64
"""TCG's cache of translated code. QEMU's default, a quarter of the guest's memory, no allocation foresees."""

TapFds = tuple[int, ...]
"""Descriptors of one guest's TAP, one for each queue."""

MOST_TAP_FDS = 253
"""As many descriptors as can be handed over at once, SCM_MAX_FD of the kernel; a host has no more guests."""

_MOST_QUEUES = 8  # a thread of the kernel's each; more than any guest's network needs
_WINDOW_ENVIRONMENT = {
    "DBUS_SESSION_BUS_ADDRESS": "disabled:",
    "NO_AT_BRIDGE": "1",
    "GTK_A11Y": "none",
    "GIO_USE_VFS": "local",
    "GSETTINGS_BACKEND": "memory",
}
"""Keeps the libraries of windows from starting programs, such as a message bus: the kernel kills a QEMU that does."""


@dataclass(frozen=True, slots=True)
class Passthrough:
    """A directory of the host that a guest sees through 9p."""

    tag: str
    path: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Kernel:
    """Kernel and initial file system from the image's boot bundle, as open descriptors (memory, not files)."""

    kernel_fd: int
    initrd_fd: int
    command_line: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A virtual disk: by path, or by descriptor when its file has no name any more."""

    path: str
    fd: int | None = None
    backing: Disk | None = None
    format: str = "qcow2"
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that one QEMU command line says."""

    name: str
    mac: str
    cores: int
    ram_mib: int
    accelerator: Accelerator  # decided: KVM or TCG
    firmware: str | None  # None: QEMU's own choice
    kernel: Kernel | None  # None: the image's own boot loader
    root: Disk
    temporary: Disk
    shares: tuple[Passthrough, ...]
    tap_fds: TapFds
    qmp_fd: int
    control_fd: int
    console_fd: int
    job_output: PurePath
    job_errors: PurePath
    vhost: bool = False  # the kernel passes packets between the TAP and the guest's memory, not QEMU
    display: str | None = None  # what opens a window with the guest's screen; None: it has no screen

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors that QEMU inherits."""
        disks = [disk.fd for disk in (self.root, self.temporary) if disk.fd is not None]
        kernel = [self.kernel.kernel_fd, self.kernel.initrd_fd] if self.kernel else []
        return (*self.tap_fds, self.qmp_fd, self.control_fd, self.console_fd, *disks, *kernel)


@dataclass(frozen=True, slots=True)
class Offer:
    """What this host has to offer every guest on it."""

    accelerator: Accelerator  # decided: KVM or TCG
    firmware: str | None
    kernel: Kernel | None
    display: str | None = None
    vhost: bool = False


def make_machine(plan: Plan, guest: Guest, offer: Offer, root: Disk, temporary: Disk, tap_fds: TapFds) -> Machine:
    """Return the machine of one guest. The sockets of QMP, control port and console are not open yet: -1."""
    job_dir = JobDir(PurePath(plan.job_dir))
    return Machine(
        name=f"chgu{guest.id}",
        mac=plan.address(guest).mac,
        cores=guest.cores,
        ram_mib=guest.ram_mib,
        accelerator=offer.accelerator,
        firmware=offer.firmware,
        kernel=offer.kernel,
        root=root,
        temporary=temporary,
        shares=make_shares(plan),
        tap_fds=tap_fds,
        qmp_fd=-1,
        control_fd=-1,
        console_fd=-1,
        job_output=job_dir.job_output(guest.id),
        job_errors=job_dir.job_errors(guest.id),
        vhost=offer.vhost,
        display=offer.display,
    )


def make_image_disk(image: Image) -> Disk:
    """Return the image as what lies below an overlay, with every layer named: QEMU follows no header."""
    disk = None
    for layer in reversed(image.layers):
        disk = Disk(layer.path, backing=disk, format=layer.format, read_only=True)
    assert disk is not None
    return disk


def make_shares(plan: Plan) -> tuple[Passthrough, ...]:
    """Return what guests see of the host: what the tool made, read-only but for `sync`, and what the user named."""
    job_dir = JobDir(PurePath(plan.job_dir))
    return (
        Passthrough("meta", str(job_dir.meta), read_only=True),
        Passthrough("opt", str(job_dir.opt(plan.cluster_id)), read_only=True),
        Passthrough("sync", str(job_dir.sync), read_only=False),
        *(Passthrough(share.tag, share.path, read_only=False) for share in plan.shares),
    )


def make_qemu_argv(machine: Machine, program: str = "qemu-system-x86_64") -> list[str]:
    """Return the command line of one guest."""
    # fmt: off
    return [
        program,
        "-name", f"guest={machine.name}",
        # Nothing that was not asked for: no devices, no configuration files, no monitor on a port.
        "-nodefaults", "-no-user-config",
        *_screen(machine),
        # A reboot or a panic ends QEMU, so that it is seen.
        "-no-reboot", "-device", "pvpanic-pci",
        # A guest that breaks out finds a process that can neither start programs nor gain rights.
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *_processor(machine),
        "-m", f"{machine.ram_mib}M",
        *_boot(machine),
        *_disk("root", machine.root),
        *_disk("tmp", machine.temporary),
        *(_network(machine) if machine.tap_fds else []),
        *_ports(machine),
        *(word for share in machine.shares for word in _share(share)),
        "-device", "virtio-rng-pci",
        "-chardev", f"socket,id=qmp,fd={machine.qmp_fd}", "-mon", "chardev=qmp,mode=control",
    ]
    # fmt: on


def choose_queues(cores: Sequence[int], vhost: bool) -> list[int]:
    """Return how many queues each guest's TAP has: by vhost-net one for each core that can look after it."""
    most = min(_MOST_QUEUES, MOST_TAP_FDS // max(len(cores), 1))
    return [min(core_ct, most) if vhost else 1 for core_ct in cores]


def make_qemu_environment(machine: Machine) -> dict[str, str]:
    """Return what QEMU needs in its environment, besides ours."""
    return _WINDOW_ENVIRONMENT if machine.display else {}


def escape(value: str | PurePath) -> str:
    """Return `value` as it must stand in a comma-separated QEMU option."""
    return str(value).replace(",", ",,")


def _processor(machine: Machine) -> list[str]:
    if machine.accelerator is Accelerator.KVM:
        accelerator, cpu = "kvm", "host"
    else:
        # Without these flags the kernel's slow paths under emulation are not taken: measured, 0.7 s of a boot.
        accelerator, cpu = f"tcg,thread=multi,tb-size={TRANSLATION_BUFFER_MIB}", "max,-erms,-fsrm,-la57"
    return ["-machine", "q35", "-accel", accelerator, "-cpu", cpu, "-smp", str(machine.cores)]


def _boot(machine: Machine) -> list[str]:
    firmware = ["-bios", machine.firmware] if machine.firmware else []
    if machine.kernel is None:
        return firmware
    kernel, initrd = (f"/proc/self/fd/{fd}" for fd in (machine.kernel.kernel_fd, machine.kernel.initrd_fd))
    return [*firmware, "-kernel", kernel, "-initrd", initrd, "-append", machine.kernel.command_line]


def _screen(machine: Machine) -> list[str]:
    """A screen of 100 by 37 characters. The window stays when somebody closes it: that would end the guest."""
    if machine.display is None:
        return ["-display", "none"]
    return ["-display", f"{machine.display},window-close=off", "-device", "VGA,xres=800,yres=600"]


def _network(machine: Machine) -> list[str]:
    """The guest's network card. Each queue has an interrupt for either way, and two are for the rest (virtio 1.2)."""
    fds = ":".join(map(str, machine.tap_fds))
    several = len(machine.tap_fds) > 1
    queues = f",mq=on,vectors={2 * len(machine.tap_fds) + 2}" if several else ""
    vhost = ",vhost=on" if machine.vhost else ""
    # fmt: off
    return [
        "-netdev", f"tap,id=net,{'fds' if several else 'fd'}={fds}{vhost}",
        "-device", f"virtio-net-pci,netdev=net,mac={machine.mac}{queues},romfile=",
    ]
    # fmt: on


def _disk(name: str, disk: Disk) -> list[str]:
    # A descriptor reaches QEMU's block layer through a descriptor set; the set's number is the descriptor's.
    fd_set = ["-add-fd", f"fd={disk.fd},set={disk.fd}"] if disk.fd is not None else []
    block = {"node-name": name, "discard": "unmap", **_block(disk)}
    return [*fd_set, "-blockdev", json.dumps(block), "-device", f"virtio-blk-pci,drive={name}"]


def _block(disk: Disk) -> dict[str, object]:
    """The block device in QEMU's JSON form: no file name can be mistaken for a protocol or an option."""
    filename = disk.path if disk.fd is None else f"/dev/fdset/{disk.fd}"
    block: dict[str, object] = {
        "driver": disk.format,
        "read-only": disk.read_only,
        "file": {"driver": "file", "filename": filename},
    }
    if disk.format == "qcow2":  # null: whatever its header says, there is none
        block["backing"] = None if disk.backing is None else _block(disk.backing)
    return block


def _ports(machine: Machine) -> list[str]:
    # fmt: off
    return [
        "-device", "virtio-serial-pci",
        # QEMU itself writes down what the guest prints; whoever looks and types is beyond the socket.
        "-chardev", f"socket,id=console,fd={machine.console_fd}",
        "-device", "virtconsole,chardev=console",
        "-chardev", f"socket,id=control,fd={machine.control_fd}",
        "-device", f"virtserialport,chardev=control,name={CONTROL_PORT}",
        "-chardev", f"file,id=jobout,path={escape(machine.job_output)},append=on",
        "-device", f"virtserialport,chardev=jobout,name={JOB_OUTPUT_PORT}",
        "-chardev", f"file,id=joberr,path={escape(machine.job_errors)},append=on",
        "-device", f"virtserialport,chardev=joberr,name={JOB_ERRORS_PORT}",
    ]
    # fmt: on


def _share(share: Passthrough) -> list[str]:
    # security_model=none: file operations are the user's own, exactly; what he may not do, root in the guest may not.
    options = "security_model=none,multidevs=remap" + (",readonly=on" if share.read_only else "")
    # fmt: off
    return [
        "-fsdev", f"local,id={share.tag},path={escape(share.path)},{options}",
        "-device", f"virtio-9p-pci,fsdev={share.tag},mount_tag={share.tag}",
    ]
    # fmt: on
