# SPDX-License-Identifier: Apache-2.0
"""A user namespace with one or two network namespaces, and what the process inside can do there.

Only for the holder (see `netholder`): entering cannot be undone, the process gives up the host's network for good.
`ip`, `bridge` and `nft` do the work in batches: one start of a few milliseconds for thousands of lines. WireGuard is
set up by a message to the kernel: nodes seldom have wireguard-tools.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import signal
import socket
import struct
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from chslurm.errors import ChslurmError
from chslurm.filters import Family
from chslurm.host.genetlink import send_commands
from chslurm.host.pasta import ADMIN_PATH
from chslurm.host.process import describe_exit, run
from chslurm.host.sysctls import write_sysctls
from chslurm.linkfilters import check_refusals
from chslurm.network import GUESTS_NETNS, Place, Step, Tool, shorten
from chslurm.wgdevice import FAMILY, FAMILY_VERSION, KEY_BYTES, SET_DEVICE, encode_device, render_device

_NFT_MAX_CHARACTERS = 180_000
"""At once. 10,000 elements of a set, 220,000 characters, fit and 20,000 do not: the buffer of a user's socket has twice
`net.core.wmem_max`, 416 KiB where nobody has changed that."""

_ETH_P_ALL = 3
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_CAP_NET_ADMIN = 12
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_PDEATHSIG = 1
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x0100, 0x1000, 0x4000
_TUN = "/dev/net/tun"
_ARGV = {
    Tool.IP: ("ip", "-batch", "-"),
    Tool.BRIDGE: ("bridge", "-batch", "-"),
    Tool.NFT: ("nft", "-f", "-"),
}
_USERNS_HINT = (
    "unprivileged user namespaces must be allowed: user.max_user_namespaces > 0,"
    " kernel.unprivileged_userns_clone = 1, kernel.apparmor_restrict_unprivileged_userns = 0 where these exist"
    " (Ubuntu 24.04 and later; instead of the last, an AppArmor profile with `userns,` for our Python does, too)"
)

_libc = ctypes.CDLL(None, use_errno=True)


class Namespaces:
    """The namespaces of this process. It is in the guests' one, but for moments in the uplink."""

    def __init__(self, *, uplink: bool) -> None:
        """Make and enter them: uid and gid stay what they are. Raises ChslurmError when the host does not allow it."""
        uid, gid = os.getuid(), os.getgid()
        _check_zero(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET), "make a user and network namespace", _USERNS_HINT)
        self._user = os.readlink("/proc/self/ns/user")  # a new one, or we would not be here
        _map_ids(uid, gid)
        self.fds: dict[Place, int] = {}
        self.refused: dict[Family, str] = {}  # families of filters, with nft's words
        self.uplink_path = ""
        self._loaded: list[Step] = []  # filters
        self.private_key = b""  # of the tunnel; never in a step, which is logged
        if uplink:
            self.fds[Place.UPLINK] = os.open("/proc/self/ns/net", os.O_RDONLY)
            self.uplink_path = f"/proc/{_fork_sitter()}/ns/net"
            _check_zero(_libc.unshare(_CLONE_NEWNET), "make a network namespace", _USERNS_HINT)
        self.fds[Place.GUESTS] = os.open("/proc/self/ns/net", os.O_RDONLY)
        _let_children_administer()

    def apply(self, steps: Sequence[Step], *, choose: bool = False) -> None:
        """Do `steps` in order; filters of one place that follow each other are loaded as one, or not at all.

        Very long ones are loaded a part at a time: the kernel takes at once what a socket's buffer holds.

        With `choose`, families of filters that this kernel has not are left out, here and later, as far as
        `check_refusals` allows. Raises ChslurmError with the words of the tool that refused.
        """
        for (place, tool), group in itertools.groupby(steps, lambda step: (step.place, step.tool)):
            todo = [step for step in group if step.family not in self.refused]
            if tool is not Tool.NFT:
                for step in todo:
                    self._do(step)
                continue
            for batch in _batches(todo):
                try:
                    self._do(Step(place, tool, "".join(step.text for step in batch)))
                    self._loaded += batch
                except ChslurmError:
                    if not choose:
                        raise
                    self._choose(batch)

    def _choose(self, steps: Sequence[Step]) -> None:
        """Load what can be loaded."""
        for step in steps:
            try:
                self._do(step)
                self._loaded.append(step)
            except ChslurmError as error:
                assert step.family
                self.refused[step.family] = error.message
        check_refusals(self.refused)

    def _do(self, step: Step) -> None:
        """Do one step and log it on stderr."""
        print(f"{step.place} {step.tool}:\n{shorten(step.text)}", file=sys.stderr, flush=True)
        with self._inside(step.place):
            if step.tool is Tool.SYSCTL:
                write_sysctls(step.text)
            elif step.tool is Tool.WG:
                self._set_wireguard(step.text)
            else:
                guests = self.fds[Place.GUESTS]
                text = step.text.replace(GUESTS_NETNS, f"/proc/self/fd/{guests}")
                run(_ARGV[step.tool], input_text=text, env=ADMIN_PATH, pass_fds=[guests])

    def filter_without(self, families: Collection[Family]) -> None:
        """Have the filters that were loaded so far, but none of these families: for a check that wants to see harm."""
        for place in self.fds:
            kept = [step.text for step in self._loaded if step.place is place and step.family not in families]
            self._do(Step(place, Tool.NFT, "".join(["flush ruleset\n", *kept])))

    def find_wireguard_obstacle(self) -> str:
        """Make a WireGuard device as the tunnel's would be, and remove it. Return why that failed, empty if it did not.

        The kernel loads its module for that, if there is one.
        """
        guests = self.fds[Place.GUESTS]
        link = ["ip", "link", "add", "try0", "netns", f"/proc/self/fd/{guests}", "type", FAMILY]
        with self._inside(Place.UPLINK):
            made = run(link, check=False, env=ADMIN_PATH, pass_fds=[guests])
        print(f"trying WireGuard: {describe_exit(made.status)}: {made.stderr}", file=sys.stderr, flush=True)
        if made.status:
            first = next(iter(made.stderr.splitlines()), "ip said nothing")
            return first.removeprefix("Error: ").removeprefix("RTNETLINK answers: ").rstrip(".")
        try:
            self._set_wireguard(render_device("try0", 0, []))
        except ChslurmError as error:
            return error.message
        finally:
            run(["ip", "link", "delete", "dev", "try0"], env=ADMIN_PATH)
        return ""

    def _set_wireguard(self, text: str) -> None:
        key = self.private_key or bytes(KEY_BYTES)  # zeros: no key
        send_commands(FAMILY, FAMILY_VERSION, SET_DEVICE, encode_device(text, key))

    def has_link(self, place: Place, name: str) -> bool:
        """Tell whether there is a link of this name."""
        with self._inside(place):
            return name in (link for _, link in socket.if_nameindex())

    def kill_entered(self) -> None:
        """Kill every other process in our user namespace: what a user has sent there with `nsenter`."""
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError):
                pid = int(entry.name) if entry.name.isdigit() else os.getpid()
                if pid != os.getpid() and os.readlink(f"/proc/{pid}/ns/user") == self._user:
                    os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _inside(self, place: Place) -> Iterator[None]:
        _check_zero(_libc.setns(self.fds[place], _CLONE_NEWNET), "enter a network namespace")
        try:
            yield
        finally:
            _check_zero(_libc.setns(self.fds[Place.GUESTS], _CLONE_NEWNET), "enter a network namespace")


def _batches(steps: Sequence[Step]) -> Iterator[list[Step]]:
    batch: list[Step] = []
    length = 0
    for step in steps:
        length += len(step.text)
        if batch and length > _NFT_MAX_CHARACTERS:
            yield batch
            batch, length = [], len(step.text)
        batch.append(step)
    if batch:
        yield batch


def open_tap(name: str, queue_ct: int = 1) -> list[int]:
    """Make a TAP as QEMU wants it, where we are, and return a descriptor for each of its queues.

    The device lives as long as any of them. With one queue it is open once, and nobody else's.
    """
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queue_ct > 1 else 0)
    fds = []
    try:
        for _ in range(queue_ct):
            fds.append(os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            fcntl.ioctl(fds[-1], _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        hint = "the site must load `tun` and give it mode 0666, as udev does"
        raise ChslurmError(f"can't make a TAP device with {_TUN}: {error.strerror}", hint=hint) from error
    return fds


def open_witness(name: str) -> int:
    """Return the descriptor of a socket that gets a copy of every frame of a link where we are."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL)) as witness:
        witness.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        witness.bind((name, _ETH_P_ALL))
        return witness.detach()


def open_listener(kind: socket.SocketKind, address: str, port: int) -> int:
    """Return the descriptor of a socket that is bound and, for streams, listening, where we are."""
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.bind((address, port))
        if kind is socket.SOCK_STREAM:
            listener.listen(64)
        return listener.detach()


def _map_ids(uid: int, gid: int) -> None:
    """Keep both ids. Here a host refuses whose AppArmor lets anybody make a user namespace, but not use it."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            Path("/proc/self", name).write_text(text)
        except OSError as error:
            why = f"/proc/self/{name}: {error.strerror}"
            raise ChslurmError(f"can't use a user namespace: {why}", hint=_USERNS_HINT) from error


def _fork_sitter() -> int:
    """Return the pid of a child that stays where we are now, and ends with us.

    pasta's AppArmor profile lets it open the namespace of a process by /proc/PID/ns/net, and by no other name.
    """
    holder = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        while os.getppid() == holder:
            signal.pause()
    finally:
        os._exit(0)


def _let_children_administer() -> None:
    """Hand CAP_NET_ADMIN over exec: uid is not 0 in our namespace, so `ip` and `nft` would have no rights there."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    _check_zero(_libc.capget(header, sets), "read capabilities")
    effective, permitted, _, *rest = struct.unpack("6I", sets.raw)
    inheritable = 1 << _CAP_NET_ADMIN
    _check_zero(_libc.capset(header, struct.pack("6I", effective, permitted, inheritable, *rest)), "set capabilities")
    raised = _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_NET_ADMIN, 0, 0)
    _check_zero(raised, "administer a network namespace of our own", _USERNS_HINT)


def _check_zero(result: int, what: str, hint: str = "") -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise ChslurmError(f"can't {what}: {os.strerror(code)} ({errno.errorcode.get(code, code)})", hint=hint)
