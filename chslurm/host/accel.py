# SPDX-License-Identifier: Apache-2.0
"""What this host offers QEMU: KVM when it truly works, the quick firmware when it is installed."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from chslurm.errors import ChslurmError
from chslurm.plan import Accelerator

_KVM_CREATE_VM = 0xAE01
"""ioctl of linux/kvm.h"""

_FIRMWARE_DIRS = ("/usr/share/qemu", "/usr/share/qemu-kvm", "/usr/share/qboot", "/usr/local/share/qemu")


_QEMU_NAMES = ("qemu-system-x86_64", "qemu-kvm", "/usr/libexec/qemu-kvm")
"""Names of QEMU: of most distributions, and of Red Hat's."""


def choose_accelerator(wanted: Accelerator) -> tuple[Accelerator, str]:
    """Return KVM or TCG and the reason, in words. Raises ChslurmError when KVM is demanded and can't be had."""
    if wanted is Accelerator.TCG:
        return Accelerator.TCG, "asked for with --accel tcg"
    obstacle = _kvm_obstacle()
    if obstacle is None:
        return Accelerator.KVM, "processor and /dev/kvm offer it"
    if wanted is Accelerator.KVM:
        raise ChslurmError(f"can't use KVM: {obstacle}", hint="use --accel tcg, or ask for a node that has it")
    return Accelerator.TCG, f"no KVM: {obstacle}"


def find_firmware(name: str = "qboot.rom") -> str | None:
    """Return the path of a firmware image of QEMU, or None."""
    paths = (Path(folder) / name for folder in _FIRMWARE_DIRS)
    return next((str(path) for path in paths if path.is_file()), None)


def find_qemu() -> str:
    """Return the program that emulates this kind of machine. Raises ChslurmError when there is none."""
    for name in _QEMU_NAMES:
        if found := shutil.which(name):
            return found
    raise ChslurmError(f"can't find QEMU: none of {', '.join(_QEMU_NAMES)}", hint="install qemu-system-x86 or qemu-kvm")


def _kvm_obstacle() -> str | None:
    """Say why KVM can't be used, or None. A device that opens proves nothing: the processor must have it, too."""
    flags = _processor_flags()
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


def _processor_flags() -> set[str]:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()
