# SPDX-License-Identifier: Apache-2.0
"""The agent of guests, compiled from guest/image/chguest.c, in a root folder of its own. Port and console are terminals
of the test: what the agent does with real ones is shown by tests with real guests.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import TIED

SOURCE = Path(__file__).parents[2] / "guest/image/chguest.c"
PATIENCE_S = 10.0

# A job in the foreground of the console, that tells the console's size once and whenever it changes.
FOREGROUND = """
import os, signal
def tell(*_): print(*os.get_terminal_size(0), flush=True)
signal.signal(signal.SIGWINCH, tell)
tell()
while True: signal.pause()
"""


@pytest.fixture(scope="session")
def agent_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("agent") / "chguest"
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", "-static", "-O2", *warnings, "-o", program, SOURCE], check=True, timeout=60)
    return program


class Agent:
    """A running agent and the terminals that stand for its port and its console."""

    def __init__(self, program: Path, root: Path) -> None:
        self.root = root
        self.port, self.far_port = os.openpty()
        self.console_master, self.console = os.openpty()
        tty.setraw(self.far_port)
        for folder in ("run", "dev/pts", "sys/class/virtio-ports/vport0p1"):
            (root / folder).mkdir(parents=True)
        (root / "sys/class/virtio-ports/vport0p1/name").write_text("chslurm.control\n")
        for name, terminal in (("vport0p1", self.far_port), ("hvc0", self.console)):
            (root / "dev" / name).symlink_to(os.ttyname(terminal).removeprefix("/dev/"))
        os.link(program, root / "chguest")
        start = 'mount --rbind /dev/pts "$1/dev/pts" && exec chroot "$1" /chguest agent'
        argv = [*TIED, "unshare", "--mount", "sh", "-c", start, "sh", str(root)]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE)
        self._unread = b""

    def say(self, **order: object) -> None:
        os.write(self.port, json.dumps(order).encode() + b"\n")

    def read(self) -> dict[str, Any]:
        """Return the next word of the agent."""
        while b"\n" not in self._unread:
            assert select.select([self.port], [], [], PATIENCE_S)[0], "the agent says nothing"
            self._unread += os.read(self.port, 65536)
        line, _, self._unread = self._unread.partition(b"\n")
        word: dict[str, Any] = json.loads(line)
        return word

    def settle(self) -> None:
        """Wait until all that was said is done; nothing but the hellos of the beginning may come before the answer."""
        self.say(op="ping")
        while (word := self.read())["event"] == "hello":
            pass
        assert word == {"event": "pong"}

    def size(self) -> tuple[int, ...]:
        """Rows and columns of the console."""
        return struct.unpack("HHHH", fcntl.ioctl(self.console, termios.TIOCGWINSZ, bytes(8)))[:2]

    def end(self) -> str:
        """Return what the agent has said on its standard error."""
        self.process.kill()
        said = self.process.communicate()[1].decode()
        for terminal in (self.port, self.far_port, self.console_master, self.console):
            os.close(terminal)
        return said


@pytest.fixture
def agent(agent_program: Path, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(agent_program, tmp_path)
    yield agent
    print(agent.end())


def test_the_first_word_says_which_orders_are_known(agent: Agent) -> None:
    hello = agent.read()
    assert (hello["event"], hello["protocol"], hello["kernel"]) == ("hello", 2, os.uname().release)


def test_the_console_gets_the_size_it_is_told_and_its_job_learns_of_it(agent: Agent) -> None:
    agent.say(op="resize", rows=24, columns=80)
    agent.settle()
    assert agent.size() == (24, 80)

    argv = [*TIED, "setsid", "--ctty", sys.executable, "-c", FOREGROUND]
    with subprocess.Popen(argv, stdin=agent.console, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout
        assert job.stdout.readline() == "80 24\n"
        agent.say(op="resize", rows=1000, columns=1)
        assert job.stdout.readline() == "1 1000\n"
        job.kill()


@pytest.mark.parametrize(
    "order",
    [{}, {"rows": 24}, {"rows": 0, "columns": 80}, {"rows": 24, "columns": 1001}, {"rows": "24", "columns": "80"}],
)
def test_a_size_that_is_none_changes_nothing_and_fails_nothing(agent: Agent, order: dict[str, object]) -> None:
    agent.say(op="resize", rows=30, columns=90)
    agent.say(op="resize", **order)
    agent.settle()
    assert agent.size() == (30, 90)


def test_a_console_that_is_not_there_ends_no_guest(agent: Agent) -> None:
    (agent.root / "dev/hvc0").unlink()
    agent.say(op="resize", rows=30, columns=90)
    agent.settle()


def test_what_the_host_puts_is_there_whole_and_private(agent: Agent) -> None:
    agent.say(op="put", name="identity.sh", text="A='ü\\n\"'\n")
    agent.say(op="put", name="open", mode="0644", text="")
    agent.settle()
    files = {path.name: path for path in (agent.root / "run/chslurm").iterdir() if path.is_file()}
    assert {name: path.stat().st_mode & 0o777 for name, path in files.items()} == {"identity.sh": 0o600, "open": 0o644}
    assert files["identity.sh"].read_text() == "A='ü\\n\"'\n"


@pytest.mark.parametrize("line", [b"no object", b'{"op":"dance"}', b'{"op":"put","name":"../passwd"}', b'{"op":[1]}'])
def test_what_is_no_order_is_told(agent: Agent, line: bytes) -> None:
    os.write(agent.port, line + b"\n")
    while (word := agent.read())["event"] == "hello":
        pass
    assert word["event"] == "failed"


def test_a_barrier_holds_until_it_is_released(agent: Agent) -> None:
    agent.settle()
    client = [*TIED, "chroot", str(agent.root), "/chguest", "barrier", "boot"]
    with subprocess.Popen(client) as waiting:
        assert agent.read() == {"event": "barrier", "name": "boot"}
        time.sleep(0.2)
        assert waiting.poll() is None
        agent.say(op="release", barrier="boot")
        assert waiting.wait(PATIENCE_S) == 0
