# SPDX-License-Identifier: Apache-2.0
"""Hosts, an outside and guests made of namespaces, for tests of the network.

Everything hangs on processes that the kernel kills when the test ends (parent-death signal): nothing has to be undone.
A host has its own network and mount namespace with a /dev/net/tun of mode 0666, as udev makes it. A guest is a network
namespace whose eth0 is the far end of the fabric's TAP: a real IP stack without a QEMU.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ports import Port

import chslurm
from chslurm.addresses import GuestAddress, make_layout

HERE = Path(__file__).parent
PACKAGE = Path(chslurm.__file__).parent.parent  # the folder to import chslurm from
USER = 65534
OTHER_USER = 65533
TIED = ("setpriv", "--pdeathsig", "KILL")
PRIVATE_TUN = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && echo up && exec sleep 600"


class Namespace:
    """A process that does nothing but own namespaces."""

    def __init__(self, script: str = "echo up; exec sleep 600", pass_fds: Sequence[int] = ()) -> None:
        argv = [*TIED, "unshare", "--net", "--mount", "sh", "-c", script]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds)
        assert self.process.stdout
        assert self.process.stdout.readline() == "up\n", script
        self.sh("ip link set lo up")

    @property
    def pid(self) -> int:
        return self.process.pid

    def argv(self, *argv: str) -> list[str]:
        return [*TIED, "nsenter", "--target", str(self.pid), "--net", "--mount", *argv]

    def run(self, *argv: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*argv), capture_output=True, text=True, timeout=timeout_s, check=False)

    def sh(self, script: str) -> str:
        done = self.run("sh", "-ec", script)
        assert done.returncode == 0, (script, done.stderr)
        return done.stdout

    def python(self, *words: object) -> subprocess.Popen[str]:
        """Start a script of `sockets.py` here and wait for its first line when it is a server."""
        argv = self.argv(sys.executable, str(HERE / "sockets.py"), *map(str, words))
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def serve(self, *words: object) -> None:
        assert self.tries_to_serve(*words), words

    def tries_to_serve(self, *words: object) -> bool:
        """Start a server; say whether it got its port."""
        server = self.python("serve", *words)
        self.servers = [*getattr(self, "servers", []), server]
        assert server.stdout
        return server.stdout.readline() == "up\n"

    def asks(self, kind: str, address: object, port: int = 7000) -> str:
        """What comes back from a server there: its name, or ''. Asked again: a busy machine may answer late."""
        answers = (self.asks_all([(kind, address, port)])[0] for _ in range(3))
        return next(filter(None, answers), "")

    def asks_all(self, questions: Sequence[tuple[str, object, int]]) -> list[str]:
        """The same for many servers at once."""
        asking = [self.python("ask", *question) for question in questions]
        return [process.communicate(timeout=60)[0].strip() for process in asking]

    def pings(self, address: object, size_bytes: int = 84, wait_s: int = 1) -> bool:
        """Whether an echo request of this IP packet size, not to be fragmented, is answered."""
        argv = ("ping", "-4", "-n", "-c3", "-i0.2", f"-W{wait_s}", "-Mdo", f"-s{size_bytes - 28}", str(address))
        return self.run(*argv).returncode == 0

    def set_resolver(self, *addresses: str) -> None:
        lines = "".join(f"nameserver {address}\\n" for address in addresses)
        self.sh(f"printf '{lines}' >/dev/net/resolv.conf; mount --bind /dev/net/resolv.conf /etc/resolv.conf")

    def hide_program(self, name: str) -> None:
        self.sh(f"touch /dev/net/none; mount --bind /dev/net/none $(readlink -f $(command -v {name}))")

    def hide_by(self, program: str, script: str) -> None:
        """Put a shell script in the place of a program; `$real` in it is the program."""
        path, real = f"/run/fake-{program}", f"/run/real-{program}"
        self.sh(
            f"at=$(readlink -f $(command -v {program})); [ -e {real} ] || cp $at {real};"
            f" printf '#!/bin/sh\\nreal={real}\\n%s\\n' '{script}' >{path}; chmod 755 {path}; mount --bind {path} $at"
        )

    def show_again(self, program: str) -> None:
        self.sh(f"umount $(readlink -f $(command -v {program}))")

    def end(self) -> None:
        for process in (*getattr(self, "servers", []), self.process):
            process.kill()
            process.communicate()


class Guest(Namespace):
    """A guest's IP stack. `tap` is the descriptor behind its eth0."""

    def __init__(self, address: GuestAddress) -> None:
        ours, theirs = socket.socketpair()
        script = f"{sys.executable} {HERE / 'sockets.py'} tap {theirs.fileno()}; echo up; exec sleep 600"
        super().__init__(f"mount -t tmpfs none /dev/net; mknod /dev/net/tun c 10 200; {script}", [theirs.fileno()])
        theirs.close()
        _, (self.tap,), _, _ = socket.recv_fds(ours, 1, 1)
        ours.close()
        self.address = address
        self.sh(
            f"ip link set eth0 address {address.mac} up; ip addr add {address.ip}/{address.prefix_bits} dev eth0;"
            f" ip route add default via {address.gateway}"
        )

    @property
    def ip(self) -> str:
        return str(self.address.ip)

    def set_mtu(self, mtu: int) -> None:
        self.sh(f"ip link set eth0 mtu {mtu}")

    def end(self) -> None:
        super().end()
        os.close(self.tap)


class Node:
    """A running fabric: the product, as an ordinary user on one host; its guests are the test itself when `bare`."""

    def __init__(
        self,
        lab: Lab,
        on: Namespace,
        host: int,
        slots: int,
        mode: str,
        host_ct: int,
        user: int,
        bare: bool,
        queue_ct: int,
    ) -> None:
        self.on = on
        addresses = [make_layout(host_ct).guest(host, slot) for slot in range(1, slots + 1)]
        self.guests = [] if bare else [lab.keep(Guest(address)) for address in addresses]
        self.ports = [lab.keep(Port(address)) for address in addresses] if bare else []
        self.log_dir = Path(lab.stack.enter_context(tempfile.TemporaryDirectory(prefix="chslurm-test-")))
        self.tools = lab.tools
        os.chown(self.log_dir, user, user)
        taps = [end.tap for end in (*self.guests, *self.ports)]
        who = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]
        driver = [
            sys.executable,
            *map(str, (self.tools / "driver.py", host, f"{slots}:{queue_ct}", mode, host_ct, self.log_dir)),
        ]
        # setpriv --pdeathsig comes last, as a change of user clears it
        argv = ["nsenter", "--target", str(on.pid), "--net", "--mount", *who, *TIED, *driver, *map(str, taps)]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=taps,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.holder = 0

    def wait_started(self) -> Self:
        self.started = self.read()
        self.holder = self.started["holder"]
        return self

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.logs()
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, (answer, self.logs())
        return answer

    def send(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self.read()["answer"]

    def tool_asks(self, kind: str, address: str, port: int, user: int = USER) -> str:
        """What a tool of the user, in the fabric's namespace as `nsenter` puts it there, gets for an answer."""
        asking = (sys.executable, str(self.tools / "sockets.py"), "ask", kind, address, str(port))
        argv = self.tool_argv(*asking, user=user)
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout.strip()

    def tool_argv(self, *argv: str, user: int = USER) -> list[str]:
        who = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups")
        enter = ("nsenter", "--target", str(self.holder), "--user", "--preserve-credentials", "--net")
        return self.on.argv(*who, *enter, *argv)

    def logs(self) -> str:
        return "\n".join(f"{log.name}: {log.read_text()}" for log in sorted(self.log_dir.iterdir()))

    def helpers(self) -> dict[str, int]:
        """Process ids of the node process and its children: the holder, and pasta or slirp4netns."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (joiner,) = (int(pid) for pid in children if int(pid) != self.holder)
        return {"node": self.process.pid, "holder": self.holder, "joiner": joiner}

    def end(self) -> None:
        """As the product ends: its input ends. Then everything must be gone."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            assert self.process.stdout
            self.process.stdout.close()


class Lab:
    """Hosts 10.99.0.N on a bridge in a namespace `outside`, 10.99.0.254, which is also their default route."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.tools = self.copy_tools()
        self.outside = self.keep(Namespace())
        self.outside.sh(
            "ip link add sys0 type bridge; ip addr add 10.99.0.254/24 dev sys0; ip link set sys0 up;"
            " ip addr add 198.51.100.1/32 dev lo; ip addr add 172.22.1.2/32 dev lo; sysctl -qw net.ipv4.ip_forward=1"
        )

    def copy_tools(self) -> Path:
        """Copy the scripts that users run: where the tests lie an ordinary user may not be able to read them."""
        tools = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="chslurm-test-")))
        tools.chmod(0o755)
        for name in ("driver.py", "sockets.py"):
            shutil.copy(HERE / name, tools)
        return tools

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def keep(self, thing: Any) -> Any:
        self.stack.callback(thing.end)
        return thing

    def add_host(self, number: int, mtu: int = 1500, default_route: bool = True) -> Namespace:
        host: Namespace = self.keep(Namespace(PRIVATE_TUN))
        self.outside.sh(
            f"ip link add h{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {host.pid};"
            f" ip link set h{number} master sys0 up"
        )
        host.sh(f"ip addr add 10.99.0.{number}/24 dev eth0; ip link set eth0 up")
        host.sh("sysctl -qw net.ipv4.ping_group_range='0 2147483647'")
        if default_route:
            host.sh("ip route add default via 10.99.0.254")
        return host

    def start(
        self,
        on: Namespace,
        host: int = 1,
        slots: int = 2,
        mode: str = "cluster",
        host_ct: int = 1,
        user: int = USER,
        bare: bool = False,
        queue_ct: int = 1,
    ) -> Node:
        node: Node = self.keep(Node(self, on, host, slots, mode, host_ct, user, bare, queue_ct))
        return node.wait_started()


Ends = list[tuple[int, str, int]]
"""Number, address and port of each host's end of the tunnel."""


def join(
    nodes: Sequence[Node],
    vni: int = 4242,
    mtu: int = 1500,
    toward: str = "10.99.0.254",
    secrets: Sequence[str] = (),
    absent: Ends | None = None,
) -> Ends:
    """Reserve ports and open the tunnel between `nodes`, hosts 1, 2, ... of one cluster, and hosts that are `absent`.

    With `secrets`, one for each node, the tunnel is WireGuard.
    """
    peers = [(number, *node.ask("reserve", toward=toward)) for number, node in enumerate(nodes, 1)] + (absent or [])
    for node, secret in zip(nodes, secrets or [""] * len(nodes), strict=True):
        node.ask("open_tunnel", peers=peers, vni=vni, mtu=mtu, secret=secret)
    return peers


def is_gone(pid: int, within_s: float = 2.0) -> bool:
    """Whether a process ends (or is only a zombie of ours) in time."""
    deadline = time.monotonic() + within_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
