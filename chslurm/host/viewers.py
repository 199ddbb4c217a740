# SPDX-License-Identifier: Apache-2.0
"""What shows consoles while the launcher runs: guest 0's in its own terminal, or each guest's in an xterm.

Both are `chslurm console` in a process of its own, started when the guest is there; it has nothing to do with the
guest's life but to look.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

from chslurm.errors import UsageError
from chslurm.host.process import make_own_argv, spawn
from chslurm.meta import make_guest_name
from chslurm.request import Console

_LAST_WORDS_S = 5.0
"""How long a console may still show the end of its guest."""


class Viewers(Protocol):
    """Who shows consoles."""

    @property
    def screen_is_taken(self) -> bool:
        """Whether the launcher has to keep its own words for later."""

    def show(self, job_dir: str, guest: int) -> None:
        """A guest has started."""

    def give_back(self) -> None:
        """The cluster is over: leave the launcher's terminal to its last words."""

    def finish(self) -> None:
        """Wait until the user has seen enough."""

    def close(self) -> None:
        """End at once what is left."""


def make_viewers(console: Console, say: Callable[[str], None]) -> Viewers:
    """Return what the user asked for."""
    match console:
        case Console.CURSES:
            return _Terminal()
        case Console.XTERM:
            return _Xterms(say)
        case Console.NONE:
            return _Nobody()


def check_console(console: Console) -> None:
    """Raise UsageError when consoles can't be shown as asked."""
    if console is Console.CURSES and not (os.isatty(sys.stdin.fileno()) and os.isatty(sys.stdout.fileno())):
        hint = "leave it out: the console is in out/0_console.out, and `chslurm console` shows it"
        raise UsageError("--curses: this is no terminal", hint=hint)
    if console is Console.XTERM:
        if not os.environ.get("DISPLAY"):
            raise UsageError("--xterm: DISPLAY is not set", hint="log in with `ssh -X`, or use --curses")
        if not shutil.which("xterm"):
            raise UsageError("--xterm: xterm is not installed", hint="install it, or use --curses")


def _console_argv(job_dir: str, guest: int) -> list[str]:
    return make_own_argv("chslurm.cli.main", "console", "--cluster", job_dir, str(guest))


class _Nobody:
    screen_is_taken = False

    def show(self, job_dir: str, guest: int) -> None:
        pass

    def give_back(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Terminal:
    """Guest 0's console in the launcher's own terminal: its keys are the guest's, Ctrl-C too, until the user leaves."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def screen_is_taken(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def show(self, job_dir: str, guest: int) -> None:
        if guest == 0:
            argv = _console_argv(job_dir, guest)
            # However the launcher ends: it gives the terminal back.
            self._process = spawn(argv, stdin=None, own_session=False, death_signal=signal.SIGTERM)

    def give_back(self) -> None:
        until_s = time.monotonic() + _LAST_WORDS_S
        while self.screen_is_taken and time.monotonic() < until_s:
            time.sleep(0.05)
        self.close()

    def finish(self) -> None:
        pass

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


class _Xterms:
    """Each console in an xterm that stays open until the user closes it; so do we."""

    screen_is_taken = False

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._windows: list[subprocess.Popen[bytes]] = []

    def show(self, job_dir: str, guest: int) -> None:
        title = f"{make_guest_name(guest)} - {os.path.basename(job_dir)}"
        argv = ["xterm", "-hold", "-title", title, "-e", *_console_argv(job_dir, guest)]
        self._windows.append(spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def give_back(self) -> None:
        failed_ct = sum(window.poll() not in (None, 0) for window in self._windows)
        if failed_ct:
            self._say(f"{failed_ct} xterm could not be opened, or was killed: try `xterm` by itself")

    def finish(self) -> None:
        open_ct = sum(window.poll() is None for window in self._windows)
        if open_ct:
            self._say(f"close the xterm {'window' if open_ct == 1 else 'windows'} to finish; Ctrl-C closes all")
        for window in self._windows:
            window.wait()

    def close(self) -> None:
        for window in self._windows:
            if window.poll() is None:
                window.terminate()
            window.wait()
