# SPDX-License-Identifier: Apache-2.0
"""The holder: a forked child that owns the network namespaces of one host and works inside them.

    node process ──socket pair──> holder          user namespace of its own, uid and gid unchanged
                                    ├─ uplink     network namespace, only for a tunnel; a child of the holder sits in it
                                    └─ guests     network namespace the holder stays in

Requests and answers are JSON lines. When the socket ends, however the node process ended, the holder kills the helper
it was told to guard (pasta outlives its parent: its change of credentials clears the parent-death signal) and all that
has entered its namespaces, such as an ssh of the user, and exits: with it the namespaces go. It ignores TERM, INT and
HUP, which SLURM and terminals send to everyone: only the socket counts.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from chslurm.errors import ChslurmError
from chslurm.filters import Family
from chslurm.guest import MOST_TAP_FDS
from chslurm.host.namespaces import Namespaces, open_listener, open_tap, open_witness
from chslurm.network import HostNetwork, Place, Step, Tool
from chslurm.phases import NOTICES

Answer = tuple[dict[str, Any], list[int]]
"""What an answer says, and the descriptors that travel with it."""

_END_TIMEOUT_S = 2.0


@dataclass(slots=True)
class Holder:
    """The node process's side: asks the holder to do things and gets back descriptors."""

    pid: int
    log: Path
    _socket: socket.socket
    uplink_path: str = ""  # of the uplink namespace, for pasta; empty when there is none
    refused: dict[Family, str] = field(default_factory=dict)  # filters that this kernel has not, and its words

    def fileno(self) -> int:
        """Readable, outside of a request, means: the holder is dead."""
        return self._socket.fileno()

    def check(self) -> None:
        """Raise ChslurmError when the holder is dead. Not its exit status tells, which comes a little later."""
        with contextlib.suppress(BlockingIOError):
            if not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise self._gone()

    def apply(self, steps: Sequence[Step]) -> None:
        """Do `steps` in order. Raises ChslurmError with the words of the tool that refused."""
        self._ask("apply", steps=[(step.place, step.tool, step.text, step.family) for step in steps])

    def find_wireguard_obstacle(self) -> str:
        """Return why this host can't make WireGuard, empty when it can."""
        return str(self._ask("try_wireguard")[0]["obstacle"])

    def keep_key(self, private_key: bytes) -> None:
        """Let the holder have the key that a step leaves out. It goes through the socket between us only."""
        self._ask("keep_key", private_key=base64.b64encode(private_key).decode())

    def has_link(self, place: Place, name: str) -> bool:
        """Tell whether the namespace has a link of this name."""
        return bool(self._ask("has_link", place=place, name=name)[0]["found"])

    def guard(self, pid: int) -> None:
        """Make the holder kill our child `pid` when we are gone."""
        self._ask("guard", pid=pid)

    def listen(self, kind: socket.SocketKind, address: str, port: int) -> socket.socket:
        """Return a socket of the guests' namespace that is bound and, for streams, listening."""
        _, (fd,) = self._ask("listen", kind=kind, address=address, port=port)
        return socket.socket(fileno=fd)

    def make_socket(self) -> socket.socket:
        """Return a TCP socket of the guests' namespace, not connected yet."""
        _, (fd,) = self._ask("socket")
        return socket.socket(fileno=fd)

    def open_witness(self, link: str) -> socket.socket:
        """Return a socket that gets a copy of every frame of a link of the guests' namespace."""
        _, (fd,) = self._ask("witness", link=link)
        return socket.socket(fileno=fd)

    def filter_without(self, families: Sequence[Family]) -> None:
        """Take filters of these families away, and have all others."""
        self._ask("filter_without", families=list(families))

    def read_answer(self) -> Answer:
        """Return the next answer. Raises ChslurmError when it tells of a failure, or the holder is gone."""
        data, fds = b"", list[int]()
        while not data.endswith(b"\n"):
            part, more, _, _ = socket.recv_fds(self._socket, 65536, MOST_TAP_FDS)
            data += part
            fds += more
            if not part:
                raise self._gone()
        answer = json.loads(data)
        if "error" in answer:
            raise ChslurmError(answer["error"], hint=answer["hint"])
        return answer, fds

    def end(self) -> None:
        """Let the holder exit and wait for it; its namespaces end with it."""
        self._socket.close()
        deadline = time.monotonic() + _END_TIMEOUT_S
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.002)

    def _ask(self, what: str, **arguments: Any) -> Answer:
        try:
            self._socket.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
        except OSError as error:
            raise self._gone() from error
        return self.read_answer()

    def _gone(self) -> ChslurmError:
        return ChslurmError(f"the network holder (process {self.pid}) has died", hint=f"see {self.log}")


def start_holder(network: HostNetwork, log: Path, queue_cts: Sequence[int] = ()) -> tuple[Holder, list[int]]:
    """Fork the holder, let it make namespaces, filters, bridge and TAPs, and return it with the TAP descriptors.

    `queue_cts` says how many of them each TAP has, in order; without it one. Call before any thread or event
    loop exists. Raises ChslurmError when the host does not allow it.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _be_holder(network, queue_cts, theirs, log)
    theirs.close()
    holder = Holder(pid, log, ours)
    try:
        answer, taps = holder.read_answer()
    except BaseException:
        holder.end()
        raise
    holder.uplink_path = answer["uplink_path"]
    holder.refused = {Family(family): words for family, words in answer["refused"].items()}
    return holder, taps


def _be_holder(network: HostNetwork, queue_cts: Sequence[int], node: socket.socket, log: Path) -> NoReturn:
    """Never return into the code that forked us, whatever happens."""
    servant = _Servant(network, queue_cts)
    try:
        _detach(node, log)
        servant.serve(node)
    except BaseException:
        traceback.print_exc()
    finally:
        servant.kill_all()
        os._exit(0)


def _detach(node: socket.socket, log: Path) -> None:
    """Keep nothing of the node process: terminal, signals, or pipes, whose readers would wait for our end too."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *NOTICES):
        signal.signal(number, signal.SIG_IGN)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.closerange(3, node.fileno())
    os.closerange(node.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


class _Servant:
    """The holder's side."""

    def __init__(self, network: HostNetwork, queue_cts: Sequence[int]) -> None:
        self._network = network
        self._queue_cts = queue_cts or [1] * len(network.guests)
        self._namespaces: Namespaces | None = None
        self._guarded: int | None = None  # descriptor of a process; its number could become another's

    def serve(self, node: socket.socket) -> None:
        """Begin, then answer requests until the node process closes the socket."""
        _reply(node, self._begin)
        with node.makefile("rb") as requests:
            for line in requests:
                _reply(node, partial(self._answer, json.loads(line)))

    def kill_all(self) -> None:
        """Leave nobody behind who has to do with the namespaces."""
        if self._guarded is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._guarded, signal.SIGKILL)
        if self._namespaces is not None:
            self._namespaces.kill_entered()

    def _begin(self) -> Answer:
        namespaces = self._namespaces = Namespaces(uplink=self._network.has_uplink)
        each = zip(self._network.guests, self._queue_cts, strict=True)
        taps = [fd for guest, queue_ct in each for fd in open_tap(guest.tap, queue_ct)]
        namespaces.apply(self._network.steps, choose=True)
        return {"uplink_path": namespaces.uplink_path, "refused": namespaces.refused}, taps

    def _answer(self, request: dict[str, Any]) -> Answer:
        if self._namespaces is None:
            raise ChslurmError("the network could not be set up")
        match request:
            case {"do": "apply", "steps": steps}:
                self._namespaces.apply(
                    [
                        Step(Place(place), Tool(tool), text, Family(family) if family else None)
                        for place, tool, text, family in steps
                    ]
                )
            case {"do": "try_wireguard"}:
                return {"obstacle": self._namespaces.find_wireguard_obstacle()}, []
            case {"do": "keep_key", "private_key": text}:
                self._namespaces.private_key = base64.b64decode(text)
            case {"do": "has_link", "place": place, "name": name}:
                return {"found": self._namespaces.has_link(Place(place), name)}, []
            case {"do": "guard", "pid": pid}:
                self._guarded = os.pidfd_open(pid)
            case {"do": "listen", "kind": kind, "address": address, "port": port}:
                return {}, [open_listener(socket.SocketKind(kind), address, port)]
            case {"do": "witness", "link": link}:
                return {}, [open_witness(link)]
            case {"do": "filter_without", "families": families}:
                self._namespaces.filter_without([Family(family) for family in families])
            case {"do": "socket"}:
                return {}, [socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()]
        return {}, []


def _reply(node: socket.socket, work: Callable[[], Answer]) -> None:
    """Do `work` and send what came of it. Descriptors are the node process's from then on."""
    fds: list[int] = []
    try:
        answer, fds = work()
    except ChslurmError as error:
        answer = {"error": error.message, "hint": error.hint}
    except OSError as error:
        answer = {"error": f"can't set up the network: {error}", "hint": ""}
    data = json.dumps(answer).encode() + b"\n"
    sent = socket.send_fds(node, [data], fds) if fds else 0
    node.sendall(data[sent:])
    for fd in fds:
        os.close(fd)
