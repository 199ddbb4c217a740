# SPDX-License-Identifier: Apache-2.0
"""The WireGuard device of a SLURM job's network: whether this node can have it, and its keys and peers."""

from __future__ import annotations

import socket
from pathlib import Path

from chslurm.errors import DeviceError
from chslurm.host.genetlink import has_family, send_commands
from chslurm.wgdevice import FAMILY, FAMILY_VERSION, SET_DEVICE, encode_device

_FIRST_OPEN_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def check_device(udp_port: int) -> None:
    """Raise DeviceError when the kernel has no WireGuard, or the port is not root's, or taken."""
    if not has_family(FAMILY):
        hint = "install the module wireguard, or set TUNNEL=vxlan on all nodes"
        raise DeviceError("can't join nodes by WireGuard: the kernel of this node has none", hint=hint)
    first_open = int(_FIRST_OPEN_PORT.read_text())
    if udp_port >= first_open:
        hint = f"set PORTS below {first_open}, or net.ipv4.ip_unprivileged_port_start beyond it"
        raise DeviceError(f"can't use UDP port {udp_port} for WireGuard: users of this node could take it", hint=hint)
    if is_taken(udp_port):
        hint = "another job's tunnel may have it: more PORTS make that rare"
        raise DeviceError(f"can't use UDP port {udp_port} for WireGuard: it is taken on this node", hint=hint)


def is_taken(udp_port: int) -> bool:
    """Say whether somebody has a UDP port here, of IPv4 or of IPv6: the device takes both."""
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as trial:
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind((anywhere, udp_port))
        except OSError:
            if family == socket.AF_INET or Path("/proc/sys/net/ipv6").exists():
                return True
    return False


def set_up_device(text: str, private_key: bytes) -> None:
    """Tell the kernel what `wgdevice.render_device` said; where the device is. Raises ChslurmError."""
    send_commands(FAMILY, FAMILY_VERSION, SET_DEVICE, encode_device(text, private_key))
