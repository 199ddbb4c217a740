# SPDX-License-Identifier: Apache-2.0
"""A machine that installs from install media into an empty image: its command line, and what may be installed from.

It is one QEMU in the user's terminal, and no guest: no cluster, nothing passed through. Its disk is the virtio disk
that guests have, so that what is installed finds its root at /dev/vda1 again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

from chslurm.errors import UsageError
from chslurm.plan import Accelerator

MEDIA_BYTES = 18 * 2048
"""So much of the start of install media `find_media_fault` wants to see."""

_DESCRIPTOR_AT = 16 * 2048
_BOOT_RECORD_AT = 17 * 2048
_ISO_9660 = b"CD001"
_EL_TORITO = b"EL TORITO SPECIFICATION"
_MBR_SIGNATURE = b"\x55\xaa"


@dataclass(frozen=True, slots=True)
class Installer:
    """Everything that the command line says."""

    media: str
    image: str
    image_format: str
    cores: int
    ram_mib: int
    accelerator: Accelerator  # decided: KVM or TCG
    display: str | None  # gtk or sdl; None: only the serial console, in the terminal


class _Extent(msgspec.Struct):
    start: int
    length: int
    data: bool = False
    zero: bool = False


def find_media_fault(head: bytes) -> str | None:
    """Return why nothing can be installed from a file that begins with `head`, None when it can be tried.

    ISO 9660 (ECMA-119) has its descriptor at sector 16, bootable media (El Torito) their boot record at 17.
    """
    if head[_DESCRIPTOR_AT + 1 : _DESCRIPTOR_AT + 6] != _ISO_9660:
        return "not an ISO 9660 file system"
    if not head[_BOOT_RECORD_AT + 7 :].startswith(_EL_TORITO):
        return "nothing can be booted from it"
    return None


def find_target_format(head: bytes) -> str:
    """Return the format of an image that may be empty, by its first 512 bytes: zeros make an empty raw disk."""
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if head.strip(b"\0") and head[510:512] != _MBR_SIGNATURE:
        raise UsageError("not a disk image", hint="chslurm image create makes an empty one")
    return "raw"


def is_empty(map_json: str, head: bytes) -> bool:
    """Say whether a disk that begins with `head` has nothing in it, by what `qemu-img map --output=json` says.

    Of a raw file the first block is there from the beginning.
    """
    extents = msgspec.json.decode(map_json, type=tuple[_Extent, ...])
    end = max((extent.start + extent.length for extent in extents if extent.data and not extent.zero), default=0)
    return end <= len(head) and not head[:end].strip(b"\0")


def make_installer_argv(machine: Installer, program: str) -> list[str]:
    """Return the command line."""
    if machine.accelerator is Accelerator.KVM:
        processor = ["-accel", "kvm", "-cpu", "host"]
    else:
        processor = ["-accel", "tcg,thread=multi,tb-size=128", "-cpu", "max"]
    # Without graphics the firmware, too, speaks on the serial port.
    graphics = "on" if machine.display else "off"
    screen = ["-display", machine.display, "-device", "VGA"] if machine.display else ["-display", "none"]
    media: dict[str, object] = {"node-name": "media", "driver": "raw", "read-only": True, "file": _file(machine.media)}
    disk: dict[str, object] = {"node-name": "disk", "driver": machine.image_format, "file": _file(machine.image)}
    disk["discard"] = "unmap"
    if machine.image_format == "qcow2":
        disk["backing"] = None
    # fmt: off
    return [
        program,
        "-name", "installer", "-nodefaults", "-no-user-config", "-no-reboot",
        "-machine", f"q35,graphics={graphics}", *processor,
        "-smp", str(machine.cores), "-m", f"{machine.ram_mib}M",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *screen,
        # In this terminal: the serial console, and QEMU's own console behind Ctrl-a c.
        "-serial", "mon:stdio",
        # The disc first: what is on the disk later is not for this machine.
        "-blockdev", json.dumps(media), "-device", "ide-cd,drive=media,bootindex=1",
        "-blockdev", json.dumps(disk), "-device", "virtio-blk-pci,drive=disk,bootindex=2",
        # Outwards by QEMU's own network, with the DHCP that installers want; nothing comes in. It has no way to keep
        # the host's loopback (10.0.2.2) from the machine but `restrict`, which keeps everything from it.
        "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci",
        *(["-device", "qemu-xhci", "-device", "usb-tablet", "-device", "usb-kbd"] if machine.display else []),
    ]
    # fmt: on


def _file(path: str) -> dict[str, object]:
    return {"driver": "file", "filename": path}
