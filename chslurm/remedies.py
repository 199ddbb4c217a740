# SPDX-License-Identifier: Apache-2.0
"""What is to be typed when a host lacks something: by the family of its distribution, for whoever may do it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from enum import StrEnum

_ASSIGNMENT = re.compile(r"^(?:ID|ID_LIKE)=([\"']?)([^\"'\n]*)\1$", re.MULTILINE)


class Family(StrEnum):
    """Of distributions that name their packages alike."""

    DEBIAN = "debian"
    FEDORA = "fedora"
    RHEL = "rhel"
    SUSE = "suse"
    OTHER = "other"


_INSTALL = {
    Family.DEBIAN: "sudo apt install",
    Family.FEDORA: "sudo dnf install",
    Family.SUSE: "sudo zypper install",
    Family.RHEL: "sudo dnf install",
}

_PACKAGES: dict[str, tuple[str, str, str]] = {
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-system-x86-core", "qemu-x86"),
    "qemu-img": ("qemu-utils", "qemu-img", "qemu-img"),
    "mkfs.ext4": ("e2fsprogs", "e2fsprogs", "e2fsprogs"),
    "mkswap": ("util-linux", "util-linux", "util-linux"),
    "ip": ("iproute2", "iproute", "iproute2"),
    "bridge": ("iproute2", "iproute", "iproute2"),
    "nft": ("nftables", "nftables", "nftables"),
    "pasta": ("passt", "passt", "passt"),
    "srun": ("slurm-client", "slurm", "slurm"),
    "scontrol": ("slurm-client", "slurm", "slurm"),
}
"""Program -> its package in the first three families."""

_COLUMNS = {Family.DEBIAN: 0, Family.FEDORA: 1, Family.SUSE: 2, Family.RHEL: 1}
_QEMU_OF_RHEL = "build QEMU with --enable-virtfs and put it first on PATH, on every node: RHEL's own leaves out 9p"

PROGRAMS = ("qemu-img", "mkfs.ext4", "mkswap", "ip", "bridge", "nft")
"""What every host of a cluster starts, besides QEMU."""


def find_family(os_release: str) -> Family:
    """Return the family of the distribution that os-release(5) names."""
    words = {word for _, value in _ASSIGNMENT.findall(os_release) for word in value.split()}
    for family, names in (
        (Family.DEBIAN, {"debian", "ubuntu"}),
        (Family.RHEL, {"rhel", "centos"}),  # which are like Fedora, too
        (Family.FEDORA, {"fedora"}),
        (Family.SUSE, {"suse", "opensuse", "sles"}),
    ):
        if words & names:
            return family
    return Family.OTHER


def install(programs: Iterable[str], family: Family) -> str:
    """Return the command that installs some programs."""
    names = list(programs)
    if family is Family.OTHER:
        return f"install {', '.join(names)}"
    packages = dict.fromkeys(_PACKAGES.get(name, (name,) * 3)[_COLUMNS[family]] for name in names)
    return f"{_INSTALL[family]} {' '.join(packages)}"


def install_qemu(family: Family) -> str:
    """Return what makes a QEMU that a launch takes. The package of RHEL and its kin has no passthrough."""
    return _QEMU_OF_RHEL if family is Family.RHEL else install(["qemu-system-x86_64"], family)


def allow_namespaces(settings: dict[str, str]) -> str:
    """Return the command that lets users make namespaces, from what the kernel's settings are by name."""
    if settings.get("user.max_user_namespaces") == "0" or settings.get("user.max_net_namespaces") == "0":
        names = [name for name in ("user.max_user_namespaces", "user.max_net_namespaces") if settings.get(name) == "0"]
        return f"sudo sysctl -w {' '.join(f'{name}=15000' for name in names)}"
    if settings.get("kernel.unprivileged_userns_clone") == "0":
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if settings.get("kernel.apparmor_restrict_unprivileged_userns", "0") != "0":
        setting = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        return f"{setting}, or an AppArmor profile with `userns,` for our Python"
    return "a container or a security module forbids them: ask who runs this host"


def open_tun(error: str) -> str:
    """Return the command that gives users /dev/net/tun, by what the kernel says of it."""
    if "No such" in error:
        return "sudo modprobe tun && sudo chmod 666 /dev/net/tun"
    if "denied" in error:
        return "sudo chmod 666 /dev/net/tun"
    return "sudo modprobe tun; where that says no more, the kernel has no TAPs"


def open_kvm(obstacle: str, user: str, virtual: bool) -> str:
    """Return what gives a user KVM, by what stands in the way."""
    if "vmx" in obstacle:
        if virtual:
            where = "turn on nested virtualisation on the machine that runs this virtual one"
            return f"{where}: sudo modprobe -r kvm_intel; sudo modprobe kvm_intel nested=1 (or kvm_amd)"
        return "turn on virtualisation in the firmware's set-up"
    if obstacle.endswith("Permission denied"):
        return f"sudo usermod -aG kvm {shlex.quote(user)}, and log in anew"
    if obstacle.endswith("No such file or directory"):
        return "sudo modprobe kvm_intel, or kvm_amd"
    return "sudo dmesg | grep -i kvm; without it: --accel tcg"
