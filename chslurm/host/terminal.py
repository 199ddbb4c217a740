# SPDX-License-Identifier: Apache-2.0
"""The user's terminal as the screen and keyboard of a guest's console.

The terminal is raw meanwhile: every key, Ctrl-C too, is the guest's. One is ours, the escape: Ctrl-] and then q leaves
the guest alone, Ctrl-] twice types one.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from chslurm.host.attachclient import Channel, write_all
from chslurm.messages import ConsoleInput, encode

LEAVE_HINT = "Ctrl-] q leaves it"

_ESCAPE = 0x1D
_LEAVE = ord("q")
_RESET = b"\x1b[!p\x1b[0m\x1b[?25h\r\n"
"""Soft reset, no colours, cursor on: whatever the guest's programs left behind (xterm's control sequences)."""


@dataclass(slots=True)
class Keyboard:
    """What is typed, less what is meant for us."""

    left: bool = False  # the user wants to leave
    _escaped: bool = False

    def take(self, data: bytes) -> bytes:
        """Return what goes to the guest of what was typed."""
        passed = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte == _LEAVE:
                    self.left = True
                    break
                passed += bytes([_ESCAPE]) if byte == _ESCAPE else bytes([_ESCAPE, byte])
            elif byte == _ESCAPE:
                self._escaped = True
            else:
                passed.append(byte)
        return bytes(passed)


def show_console(channel: Channel) -> bool:
    """Show a console until the guest ends or the user leaves; return whether he left. Without a terminal only show."""
    keyboard = sys.stdin.fileno()
    if not os.isatty(keyboard):
        _show_only(channel)
        return False
    with ends_in_order(), _raw(keyboard), _resizes() as resized:
        _tell_size(keyboard, channel)
        return _serve(keyboard, resized, channel)


def _serve(keyboard: int, resized: int, channel: Channel) -> bool:
    keys, screen = Keyboard(), sys.stdout.fileno()
    while True:
        ready, _, _ = select.select([keyboard, channel.read_fd, resized], [], [])
        if resized in ready:
            os.read(resized, 4096)
            _tell_size(keyboard, channel)
        if channel.read_fd in ready:
            try:
                data = os.read(channel.read_fd, 1 << 16)
            except OSError:
                data = b""
            if not data:
                return False
            write_all(screen, data)
        if keyboard in ready:
            typed = os.read(keyboard, 4096)
            passed = keys.take(typed)
            if passed:
                _send(channel, ConsoleInput(typed=passed.decode("latin-1")))
            if keys.left or not typed:  # or the terminal has gone
                return True


def _show_only(channel: Channel) -> None:
    with suppress(OSError):
        while data := os.read(channel.read_fd, 1 << 16):
            write_all(sys.stdout.fileno(), data)


def _tell_size(terminal: int, channel: Channel) -> None:
    with suppress(OSError):
        rows, columns = struct.unpack("4H", fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8)))[:2]
        if rows and columns:
            _send(channel, ConsoleInput(rows=rows, columns=columns))


def _send(channel: Channel, message: ConsoleInput) -> None:
    with suppress(OSError):  # the guest has ended: its output says so
        write_all(channel.write_fd, encode(message))


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Whoever ends us lets us give the terminal back first."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept_settings(terminal: int) -> Iterator[None]:
    """Put a terminal back to what it was, whoever changed it."""
    before = termios.tcgetattr(terminal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it is put in order, whoever has it by now
        with suppress(OSError, termios.error):  # it may be gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    with kept_settings(terminal):
        tty.setraw(terminal)
        try:
            yield
        finally:
            with suppress(OSError):
                write_all(sys.stdout.fileno(), _RESET)


@contextmanager
def _resizes() -> Iterator[int]:
    """Yield a descriptor that becomes readable when the terminal has another size."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGWINCH, lambda *_: None)
    try:
        yield reader
    finally:
        signal.signal(signal.SIGWINCH, handler)
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
