# SPDX-License-Identifier: Apache-2.0
"""What this host offers: a QEMU, KVM and vhost-net when they truly work, the quick firmware when it is installed."""

from __future__ import annotations

import fcntl
import os
import shutil

from chslurm.errors import ChslurmError
from chslurm.host.process import run
from chslurm.plan import Accelerator

_KVM_CREATE_VM = 0xAE01
"""ioctl of linux/kvm.h"""

_VHOST_SET_OWNER = 0xAF01
"""ioctl of linux/vhost.h"""

_PROGRAMS = ("qemu-system-x86_64", "qemu-kvm", "/usr/libexec/qemu-kvm")
"""The last is where RHEL and its kin have it, and nothing else."""

_FIRMWARE = (
    "/usr/share/qemu/qboot.rom",  # Debian, Ubuntu, SUSE
    "/usr/share/qemu-firmware/qboot.rom",
    "/usr/share/qemu-kvm/qboot.rom",
    "/usr/share/qboot/bios.bin",  # Fedora, RHEL
    "/usr/local/share/qemu/qboot.rom",
)


def find_qemu() -> str:
    """Return the path of this host's QEMU. Raises ChslurmError when there is none."""
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if found is None:
        raise ChslurmError(
            f"can't find QEMU on this host: neither {' nor '.join(_PROGRAMS)}",
            hint="install qemu-system-x86 (Debian, Ubuntu), qemu-system-x86-core (Fedora) or qemu-x86 (SUSE), on every"
            " node; RHEL's own has no passthrough",
        )
    if found != shutil.which(_PROGRAMS[0]) and run([found, "-device", "virtio-9p-pci,help"], check=False).status != 0:
        raise ChslurmError(
            f"can't use {found}: it was built without passthrough of directories (virtio-9p-pci)",
            hint=f"put a {_PROGRAMS[0]} that has it on PATH, on every node: RHEL's own leaves it out",
        )
    return found


def choose_accelerator(wanted: Accelerator) -> tuple[Accelerator, str]:
    """Return KVM or TCG and the reason, in words. Raises ChslurmError when KVM is demanded and can't be had."""
    if wanted is Accelerator.TCG:
        return Accelerator.TCG, "asked for with --accel tcg"
    obstacle = find_kvm_obstacle()
    if obstacle is None:
        return Accelerator.KVM, "processor and /dev/kvm offer it"
    if wanted is Accelerator.KVM:
        raise ChslurmError(f"can't use KVM: {obstacle}", hint="use --accel tcg, or ask for a node that has it")
    return Accelerator.TCG, f"no KVM: {obstacle}"


def find_firmware() -> str | None:
    """Return the path of qboot, or None: then QEMU takes its own."""
    return next(filter(os.path.isfile, _FIRMWARE), None)


def has_vhost() -> bool:
    """Tell whether the kernel can pass packets to guests by itself, and lets us: it must take us as owner of a device.

    Should QEMU fail to, all the same, it warns in its log and passes them itself.
    """
    try:
        device = os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(device, _VHOST_SET_OWNER)
    except OSError:
        return False
    finally:
        os.close(device)
    return True


def find_kvm_obstacle() -> str | None:
    """Return why KVM can't be used, or None. A device that opens proves nothing: the processor must have it, too."""
    flags = read_processor_flags()
    if not flags & {"vmx", "svm"}:
        return "the processor has neither vmx nor svm (or hides them from this machine)"
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    try:
        os.close(fcntl.ioctl(device, _KVM_CREATE_VM, 0))
    except OSError as error:
        return f"/dev/kvm makes no machine: {error.strerror}"
    finally:
        os.close(device)
    return None


def read_processor_flags() -> set[str]:
    """Return what the kernel says of the first processor."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()
