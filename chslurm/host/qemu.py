# SPDX-License-Identifier: Apache-2.0
"""One QEMU from its start to its last word.

QEMU's exit status says nothing (0 for a power-off from inside, for SIGTERM and for a panic alike); the reason in QMP's
SHUTDOWN event does. QMP, control port and console are socket pairs: they have no name, so nobody else can reach them
and nothing is left when a node dies.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from qemu.qmp import EventListener, Message, QMPClient, QMPError

from chslurm.guest import Machine, make_qemu_argv, make_qemu_environment
from chslurm.host.console import Console
from chslurm.host.process import describe_exit, spawn
from chslurm.host.shortlog import ShortLog, record
from chslurm.messages import GUEST_WORD_MAX_BYTES, GuestOrder, GuestWord, decode_guest_word, encode, printable

_REASONS = {
    "guest-shutdown": "shut down",
    "guest-reset": "rebooted from inside",
    "guest-panic": "kernel panic",
    "host-signal": "QEMU was ended by a signal",
    "host-qmp-quit": "quit on order",
}
"""QMP's SHUTDOWN reasons that occur, in words."""

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # a QEMU that dies early is told of in our own words

_LAST_WORDS_S = 2.0
"""How long QMP may take to deliver its last event after the process has ended."""

_TAIL_BYTES = 4096
"""How much of what QEMU said is looked at for the last line."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a guest ended: `clean` when it shut itself down (asked or not), and why, in words."""

    clean: bool
    why: str


class _PatientSocket(socket.socket):
    """Takes what QEMU does not hear any more: asyncio would close the socket, and what QEMU said in the end be lost."""

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except (BrokenPipeError, ConnectionResetError):
            return memoryview(data).nbytes


class Qemu:
    """A running QEMU, made by `start_qemu`. Its callbacks run in the event loop."""

    def __init__(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        qmp: socket.socket,
        control: socket.socket,
        console: Console,
        words: socket.socket,
        log: ShortLog,
    ) -> None:
        self.name = name
        self.process = process
        self.console = console
        self.on_word: Callable[[GuestWord], None] = lambda word: None
        self.on_trouble: Callable[[str], None] = lambda text: None
        self.ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._reason = ""
        self._said = bytearray()  # what it said last
        self._tasks = {asyncio.create_task(self._attend(qmp, control, words, log))}
        self._writer: asyncio.StreamWriter | None = None
        self._client = QMPClient(name)
        self.connected = asyncio.Event()

    @property
    def version(self) -> str:
        """As QMP tells, once it is connected; empty when it does not."""
        greeting = self._client.greeting
        numbers = greeting.QMP.version.get("qemu") if greeting else None
        words = ("major", "minor", "micro")
        return ".".join(str(numbers.get(word)) for word in words) if isinstance(numbers, dict) else ""

    def say(self, order: GuestOrder) -> None:
        """Send one line to the agent in the guest; never waits."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(order))

    def power_down(self) -> None:
        """Ask the guest to shut itself down: its agent and, for guests without one, the power button."""
        self.say(GuestOrder(op="poweroff"))
        self._command("system_powerdown")

    def quit(self) -> None:
        """Tell QEMU to end at once; the guest is not asked."""
        self._command("quit")

    def kill(self) -> None:
        """End QEMU by the kernel."""
        if self.process.poll() is None:
            self.process.kill()

    def _command(self, name: str) -> None:
        async def execute() -> None:
            with suppress(QMPError):  # the process is ending already, which is what was asked for
                await self.connected.wait()
                await self._client.execute(name)

        self._keep(asyncio.create_task(execute()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """The event loop itself holds tasks weakly."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attend(self, qmp: socket.socket, control: socket.socket, words: socket.socket, log: ShortLog) -> None:
        """Listen to all of them until the process has ended; then say how. By then its logs are written."""
        reader, self._writer = await asyncio.open_connection(sock=control, limit=GUEST_WORD_MAX_BYTES)
        own_words, words_writer = await asyncio.open_connection(sock=words)
        listening = (self._listen_to_guest(reader), self._listen_to_qmp(qmp), record(own_words, log, self._hear))
        listeners = [*(asyncio.create_task(work) for work in listening), self.console.recording]
        status = await _exit_of(self.process)
        await asyncio.wait(listeners, timeout=_LAST_WORDS_S)
        for task in (*listeners, *self._tasks - {asyncio.current_task()}):
            task.cancel()
        for writer in (self._writer, words_writer):
            writer.close()
        # One that gives up by itself prints why, and the console, where a user looks first, has nothing of it.
        last_line = _find_last_line(self._said) if status > 0 and not self._reason else ""
        self.ending.set_result(_judge(status, self._reason, last_line))

    def _hear(self, words: bytes) -> None:
        self._said += words
        del self._said[:-_TAIL_BYTES]

    async def _listen_to_guest(self, reader: asyncio.StreamReader) -> None:
        """Read the control port: bounded lines, typed words; anything else is dropped."""
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than the limit
                continue
            except OSError:
                return
            if not line:
                return
            if (word := decode_guest_word(line)) is not None:
                self.on_word(word)

    async def _listen_to_qmp(self, qmp: socket.socket) -> None:
        """Take in QMP's events until QEMU closes the line."""
        self._client.register_listener(EventListener(event_filter=self._on_qmp_event))
        with suppress(QMPError, OSError, EOFError):  # the process ends; its status is read elsewhere
            await self._client.connect(qmp)
            self.connected.set()
            await self._client.runstate_changed()
            await self._client.disconnect()

    def _on_qmp_event(self, event: Message) -> bool:
        """Take in one event. It is used up here: False keeps it out of the listener's queue."""
        name = event["event"]
        data = cast(dict[str, object], event.get("data", {}))
        if name == "SHUTDOWN":
            reason = str(data.get("reason", ""))
            self._reason = self._reason or _REASONS.get(reason, reason)
        elif name == "GUEST_PANICKED":
            self._reason = _REASONS["guest-panic"]
        elif name == "BLOCK_IO_ERROR":
            self.on_trouble(f"disk error: {printable(str(data.get('reason', 'unknown')))}; is the file system full?")
        return False


def start_qemu(
    machine: Machine,
    console: ShortLog,
    log: ShortLog,
    *,
    program: str = "qemu-system-x86_64",
    deaf_to: Sequence[signal.Signals] = (),
) -> Qemu:
    """Start the QEMU of `machine`, whose sockets are made here; it never hears the signals it is `deaf_to`.

    What the guest prints goes to `console`, what QEMU says to `log`. Call inside the event loop.

    Raises ProcessError when it can't be started. QEMU is killed by the kernel when this process ends.
    """
    with ExitStack() as stack:
        theirs, ours = zip(*(socket.socketpair() for _ in range(4)), strict=True)
        for end in theirs:
            stack.enter_context(end)
        qmp_fd, control_fd, console_fd, words_fd = (end.fileno() for end in theirs)
        machine = replace(machine, qmp_fd=qmp_fd, control_fd=control_fd, console_fd=console_fd)
        argv, env = make_qemu_argv(machine, program), make_qemu_environment(machine)
        process = spawn(argv, stdout=words_fd, stderr=words_fd, env=env, pass_fds=machine.fds, deaf_to=deaf_to)
    for each in (console, log):
        each.start()
    qmp, control, screen, words = (_PatientSocket(fileno=end.detach()) for end in ours)
    for end in (qmp, control, screen, words):
        end.setblocking(False)
    return Qemu(machine.name, process, qmp, control, Console(screen, console), words, log)


async def _exit_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a child without a thread. Returns its status as `subprocess` gives it."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(process.pid)
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
        return process.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _find_last_line(text: bytearray) -> str:
    """Return the last line that is not empty, made printable and short."""
    lines = text.decode(errors="replace").split("\n")
    return next((printable(line.strip()) for line in reversed(lines) if line.strip()), "")


def _judge(status: int, reason: str, words: str = "") -> Ending:
    if status == 0 and reason in (_REASONS["guest-shutdown"], _REASONS["host-qmp-quit"]):
        return Ending(clean=reason == _REASONS["guest-shutdown"], why=reason)
    ended = f"QEMU ended: {describe_exit(status)}" + (f": {words}" if words else "")
    if status != 0 and reason:  # killed while it wrote its disks to the end
        reason = f"{reason}, then {ended}"
    return Ending(clean=False, why=reason or ended)
