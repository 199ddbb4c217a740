# SPDX-License-Identifier: Apache-2.0
"""The program that joins a namespace to the host's network without root: pasta, or slirp4netns in its place.

pasta is told everything (interface, address, gateway), because it refuses to start when it has to guess and the host
has no default route. It only makes the link up0; address and route come from our own steps, the same for every version.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chslurm.addresses import OUTSIDE_LINK
from chslurm.errors import ChslurmError
from chslurm.host.process import describe_exit, run, spawn
from chslurm.network import UPLINK_GATEWAY, UPLINK_IP
from chslurm.phases import NOTICES

ADMIN_PATH = {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"}
"""Ordinary users often have no sbin on PATH, and `ip` and `nft` are there."""

_MOST_WORDS = 1 << 20
"""What it may say: it takes memory, and guests may give it reasons."""

_KEEP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *NOTICES}


@dataclass(frozen=True, slots=True)
class Joiner:
    """A running helper between a namespace and the host's network."""

    name: str
    process: subprocess.Popen[bytes]
    pidfd: int  # readable when it has ended
    output: int  # memory file it writes to: its AppArmor profile allows no log files but in the home directory and /tmp
    log: Path  # where that goes when it has ended

    def check(self) -> None:
        """Raise ChslurmError when it has ended."""
        status = self.process.poll()
        if status is not None:
            last = self._write_log().strip().splitlines()[-1:] or ["it said nothing"]
            raise ChslurmError(f"{self.name} has ended: {describe_exit(status)}: {last[0]}", hint=f"see {self.log}")

    def end(self) -> None:
        """Kill it: it has nothing to save."""
        self.process.kill()
        self.process.wait()
        self._write_log()
        os.close(self.pidfd)
        os.close(self.output)

    def _write_log(self) -> str:
        words = os.pread(self.output, _MOST_WORDS, 0).rstrip(b"\0")
        with contextlib.suppress(OSError):  # the file system is full, or gone: no reason to stop
            self.log.write_bytes(words)
        return words.decode(errors="replace")


def start_tunnel_carrier(holder_pid: int, netns: str, address: str, port: int, log: Path) -> Joiner:
    """Start a pasta that carries UDP between `port` of this host and `netns`, and nothing else."""
    return _start("pasta", make_carrier_argv(str(holder_pid), netns, find_interface(address), address, str(port)), log)


def start_outside(holder_pid: int, interface: str, log: Path) -> Joiner:
    """Start a pasta through which TCP, UDP and echo go out, and nothing comes in. It has no DNS: see `nameserver`."""
    return _start("pasta", make_outside_argv(str(holder_pid), interface), log)


def start_outside_slirp(holder_pid: int, log: Path) -> Joiner:
    """Start slirp4netns to the same end: slower, but it asks nothing about the host's interfaces."""
    argv = ["slirp4netns", "--disable-host-loopback", "--disable-dns", "--mtu=1500", f"--cidr={OUTSIDE_LINK}"]
    return _start("slirp4netns", [*argv, str(holder_pid), "up0"], log)


def sends_from_one_socket() -> bool:
    """Say whether this pasta uses no socket for a forwarded UDP port but the one it binds at its start.

    Since July 2024 it binds the port again for each peer. What it says about its version depends on who built it; the
    help of older releases has an option that went shortly before.
    """
    asked = run(["pasta", "--help"], check=False)
    return "--stderr" in asked.stdout + asked.stderr


def find_interface(address: str = "") -> str:
    """Return the interface that has `address`; without one, that of the default route, else any that is up, else lo."""
    if address:
        questions = [["address", "show", "to", f"{address}/32"]]
    else:
        questions = [["route", "show", "default"], ["address", "show", "up", "scope", "global"]]
    for question in questions:
        answers = json.loads(run(["ip", "-json", "-4", *question], env=ADMIN_PATH).stdout or "[]")
        names = [str(answer.get("dev") or answer.get("ifname")) for answer in answers if answer]
        if names:
            return names[0]
    if address:
        raise ChslurmError(f"can't find the network interface with address {address} on this host")
    return "lo"


def find_global_address() -> str:
    """Return an address of ours that others could have a way to, also without a default route; empty without one."""
    answers = json.loads(run(["ip", "-json", "-4", "address", "show", "up", "scope", "global"], env=ADMIN_PATH).stdout)
    addresses = [info["local"] for answer in answers if answer for info in answer.get("addr_info", ())]
    return str(addresses[0]) if addresses else ""


def make_carrier_argv(holder: str, netns: str, interface: str, address: str, port: str) -> list[str]:
    """Return the pasta that carries nothing but the tunnel."""
    return _pasta(holder, netns, interface, address, "--no-tcp", "--no-icmp", "-u", f"{address}/{port}")


def make_outside_argv(holder: str, interface: str) -> list[str]:
    """Return the pasta through which a workstation's guests go out."""
    return _pasta(holder, f"/proc/{holder}/ns/net", interface, UPLINK_IP, "-u", "none")


def _pasta(holder: str, netns: str, interface: str, address: str, *options: str) -> list[str]:
    return [
        *("pasta", "--foreground", "--quiet", "--ipv4-only", "--ns-ifname", "up0"),
        *("--userns", f"/proc/{holder}/ns/user", "--netns", netns),
        # what it would look up on the host, and fail without a default route
        *("--interface", interface, "--address", address, "--netmask", "32", "--gateway", UPLINK_GATEWAY),
        # else its gateway address would be the host's loopback
        "--no-map-gw",
        # nothing that configures whoever asks, no port but the one named in `options`
        *("--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra"),
        *("--tcp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"),
        *options,
    ]


def _start(name: str, argv: Sequence[str], log: Path) -> Joiner:
    output = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(output, _MOST_WORDS)
    fcntl.fcntl(output, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    with _signals_blocked():
        process = spawn(argv, stdout=output, stderr=output)
    return Joiner(name, process, os.pidfd_open(process.pid), output, log)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """What starts here never sees TERM, INT or HUP: SLURM sends them to all, and guests need the network to the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _KEEP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
