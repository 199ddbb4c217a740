# SPDX-License-Identifier: Apache-2.0
"""Terminals that a test types into and reads: windows of a tmux of its own, and xterms on an X server of its own."""

from __future__ import annotations

import os
import secrets
import shlex
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

COLUMNS, ROWS = 100, 32


class Terminal(Protocol):
    """Something with a keyboard and lines."""

    def type(self, text: str) -> None:
        """Type a text and Return."""

    def press(self, *keys: str) -> None:
        """Press keys, named as tmux does."""

    def read(self) -> list[str]:
        """Return all lines from the beginning to where the cursor is."""


@dataclass(frozen=True, slots=True)
class Tmux:
    """A tmux server, reached by its socket; nobody else's is touched."""

    socket: Path

    def __call__(self, *command: str) -> str:
        argv = ["tmux", "-S", str(self.socket), "-f", str(self.socket.with_name("tmux.conf")), *command]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{shlex.join(argv)}: {done.stderr}"
        return done.stdout

    def open(self, name: str, command: Sequence[str]) -> Window:
        """Open a window in which `command` runs; the window stays when it ends."""
        argv = ["new-session", "-d", "-s", name, "-x", str(COLUMNS), "-y", str(ROWS), "--", *command]
        self(*argv, ";", "set-option", "-t", name, "status", "off", ";", "set-option", "-w", "remain-on-exit", "on")
        return Window(self, name)


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a tmux."""

    tmux: Tmux
    name: str

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-t", self.name, "-l", "--", text)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", "-t", self.name, *keys)

    def read(self) -> list[str]:
        lines = self.tmux("capture-pane", "-p", "-J", "-t", self.name, "-S", "-").split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        return [line.rstrip() for line in lines]


@contextmanager
def start_tmux(folder: Path) -> Iterator[Tmux]:
    """A tmux server that ends with the block, and everything in it."""
    settings = ("history-limit 50000", "default-terminal xterm-256color", "exit-empty off")
    (folder / "tmux.conf").write_text("".join(f"set-option -g {setting}\n" for setting in settings))
    tmux = Tmux(folder / "tmux")
    tmux("start-server")
    try:
        yield tmux
    finally:
        tmux("kill-server")


@dataclass(frozen=True, slots=True)
class Screen:
    """An X server without a monitor."""

    display: str
    authority: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"DISPLAY": self.display, "XAUTHORITY": str(self.authority)}

    def run(self, *command: str) -> str:
        """Run a program that uses this screen and return what it printed."""
        env = os.environ | self.environment
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
        return done.stdout

    def find_windows(self, title: str) -> list[str]:
        """Return the ids of windows that are shown and whose title holds `title`."""
        env = os.environ | self.environment
        argv = ["xdotool", "search", "--onlyvisible", "--name", title]  # ends with 1 when there is none
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=env).stdout.split()

    def find_place(self, window: str) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of a window."""
        words = self.run("xdotool", "getwindowgeometry", "--shell", window).split()
        shape = {name: int(value) for name, value in (word.split("=") for word in words)}
        return shape["X"], shape["Y"], shape["X"] + shape["WIDTH"], shape["Y"] + shape["HEIGHT"]

    @contextmanager
    def open_xterm(self, title: str, size: str, command: Sequence[str]) -> Iterator[str]:
        """An xterm in which `command` runs, until the end of the block; yields the id of its window."""
        font = ["-fa", "DejaVu Sans Mono", "-fs", "9"]
        argv = ["xterm", *font, "-geometry", size, "-title", title, "-e", *command]
        with subprocess.Popen(argv, env=os.environ | self.environment, stdin=subprocess.DEVNULL) as xterm:
            try:
                for _ in range(100):
                    if windows := self.find_windows(title):
                        break
                    time.sleep(0.1)
                yield windows[0]
            finally:
                xterm.terminate()


@contextmanager
def start_screen(folder: Path, size: str) -> Iterator[Screen]:
    """An X server on a display that is free, for those who can read its cookie in `folder`; it ends with the block."""
    authority = folder / "Xauthority"
    cookie = secrets.token_bytes(16)
    fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", cookie)  # no address and no display: those of family 0xffff are for any
    authority.write_bytes(struct.pack(">H", 0xFFFF) + b"".join(struct.pack(">H", len(x)) + x for x in fields))
    reading, writing = os.pipe()
    how = ["-screen", "0", f"{size}x24", "-nolisten", "tcp", "-auth", str(authority)]
    argv = ["Xvfb", "-displayfd", str(writing), *how]
    with open(folder / "Xvfb.out", "wb") as log:
        server = subprocess.Popen(argv, pass_fds=[writing], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    os.close(writing)
    try:
        with open(reading) as pipe:
            number = pipe.readline().strip()
        assert number, (folder / "Xvfb.out").read_text()
        yield Screen(f":{number}", authority)
    finally:
        server.terminate()
        server.wait(20)


@dataclass(frozen=True, slots=True)
class Xterm:
    """An xterm that shows a guest's console: typed into as by hand, read from what the console wrote."""

    screen: Screen
    id: str
    mirror: Window  # follows the file of the console

    def type(self, text: str) -> None:
        self._focus()
        self.screen.run("xdotool", "type", "--delay", "20", f"{text}\n")

    def press(self, *keys: str) -> None:
        self._focus()
        for key in keys:
            self.screen.run("xdotool", "key", key.replace("C-", "ctrl+"))

    def read(self) -> list[str]:
        return self.mirror.read()

    def _focus(self) -> None:
        self.screen.run("xdotool", "windowfocus", "--sync", self.id)
        time.sleep(0.1)
