# SPDX-License-Identifier: Apache-2.0
"""Who comes to a running cluster: the host's task and the user's end, over real sockets; the guest is a stand-in."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import pytest

from chslurm.cli.attach import exec_, ssh
from chslurm.errors import ChslurmError
from chslurm.host import attachclient, attachserver
from chslurm.host.attachclient import Channel, find_here, open_channel, write_all
from chslurm.host.attachpoint import make_attach_name, read_peer_uid
from chslurm.host.attachserver import AttachServer
from chslurm.host.console import Console
from chslurm.host.keymaking import make_cluster_keys
from chslurm.host.keys import read_cluster_keys, render_key_files
from chslurm.host.relay import Stream
from chslurm.host.shortlog import ShortLog
from chslurm.jobdir import JobDir
from chslurm.messages import AttachKind, AttachRequest, ConsoleInput, encode
from chslurm.plan import Mode, Plan, plan_to_json

PlanMaker = Callable[..., Plan]

LOOK = AttachRequest(AttachKind.CONSOLE)
SILENT = 2
"""A port of the guest that says no more after its first line, as one of a guest that was killed."""


@dataclass
class Stage:
    """One host's task with a guest whose console is `guest`."""

    plan: Plan
    guest: socket.socket
    console: Console
    loop: asyncio.AbstractEventLoop
    server: AttachServer | None = None
    stops: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def open(self, request: AttachRequest) -> AbstractContextManager[Channel]:
        return open_channel(self.plan, self.plan.host(1), request)

    def connect(self) -> socket.socket:
        end = find_here(self.plan, 1)
        assert end is not None
        return end

    def tell(self, act: Callable[[], None]) -> None:
        """Let the host's task do something."""
        self.loop.call_soon_threadsafe(act)


Player = Callable[[Callable[[Stage], None]], Stage]


@pytest.fixture
def cluster(plan_of: PlanMaker, tmp_path: Path) -> Plan:
    """A cluster on this machine, with keys."""
    plan = dataclasses.replace(plan_of(1, 2), mode=Mode.WORKSTATION, job_dir=str(tmp_path))
    keys = Path(JobDir(tmp_path).keys(plan.cluster_id))
    keys.mkdir(parents=True)
    for name, text in render_key_files(make_cluster_keys(plan.cluster_id)).items():
        (keys / name).write_text(text)
    return plan


@pytest.fixture
def play(cluster: Plan) -> Player:
    """Return a function that serves the cluster while the user, another thread, acts."""
    return partial(_play, cluster)


def _play(plan: Plan, act: Callable[[Stage], None]) -> Stage:

    silent: list[socket.socket] = []

    async def connect(guest: int, port: int) -> Stream:
        if port == 1:
            raise ChslurmError("can't connect to the guest", hint="try another port")
        ours, theirs = socket.socketpair()
        theirs.sendall(f"guest {guest}, port {port}\n".encode())
        if port == SILENT:
            silent.append(theirs)
        else:
            theirs.close()
        return await asyncio.open_connection(sock=ours)

    async def story() -> Stage:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        log = ShortLog(JobDir(Path(plan.job_dir)).console(0), 8 << 20)
        stage = Stage(plan, theirs, Console(ours, log), asyncio.get_running_loop())
        stage.console.on_size = lambda rows, columns: stage.sizes.append((rows, columns))
        keys = read_cluster_keys(JobDir(Path(plan.job_dir)).keys(plan.cluster_id))
        consoles = {0: stage.console}
        server = AttachServer(make_attach_name(keys, 1), consoles, connect, lambda: stage.stops.append("stop"))
        stage.server = server
        await asyncio.sleep(0.01)
        try:
            await asyncio.wait_for(asyncio.to_thread(act, stage), 20)
        finally:
            server.close()
            stage.console.close()
            for end in (theirs, *silent):
                end.close()
            await asyncio.sleep(0.05)
        return stage

    return asyncio.run(story())


def read_until(channel: Channel, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = os.read(channel.read_fd, 65536)
        if not more:
            raise EOFError(data)
        data += more
    return data


def test_who_looks_at_a_console_sees_what_was_and_what_comes(play: Player) -> None:
    def look(stage: Stage) -> None:
        stage.guest.sendall(b"booting\r\nlogin: ")
        time.sleep(0.1)
        with stage.open(LOOK) as one, stage.open(LOOK) as other:
            assert read_until(one, b"login: ") == b"booting\r\nlogin: "
            assert read_until(other, b"login: ") == b"booting\r\nlogin: "
            write_all(one.write_fd, encode(ConsoleInput(rows=50, columns=132)))
            write_all(one.write_fd, encode(ConsoleInput(typed="charlie\r\x03\xe4")))
            assert stage.guest.recv(100) == b"charlie\r\x03\xe4"
            stage.guest.sendall(b"$ ")
            assert read_until(one, b"$ ") == read_until(other, b"$ ") == b"$ "

    assert play(look).sizes == [(50, 132)]


def test_the_end_of_a_guest_is_the_end_of_its_console(play: Player) -> None:
    def look(stage: Stage) -> None:
        with stage.open(LOOK) as channel:
            stage.tell(lambda: stage.console.say("deleted x\noneguest done\n"))
            stage.tell(stage.console.close)
            assert read_until(channel, b"done\r\n") == b"deleted x\r\noneguest done\r\n"
            assert os.read(channel.read_fd, 10) == b""

    play(look)


def test_a_viewer_that_does_not_read_holds_nobody_up(play: Player) -> None:
    def look(stage: Stage) -> None:
        with stage.open(LOOK) as channel:
            for _ in range(100):
                stage.guest.sendall(b"x" * 65536)
            with pytest.raises((EOFError, OSError)):
                read_until(channel, b"never")

    play(look)


def test_a_connection_reaches_the_port_of_the_guest(play: Player) -> None:
    def connect(stage: Stage) -> None:
        with stage.open(AttachRequest(AttachKind.CONNECT, guest=1, port=22)) as channel:
            assert read_until(channel, b"\n") == b"guest 1, port 22\n"

    play(connect)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (AttachRequest(AttachKind.CONSOLE, guest=1), "guest 1: it does not run here"),
        (AttachRequest(AttachKind.CONNECT, guest=1, port=1), "can't connect to the guest; try another port"),
    ],
)
def test_what_can_not_be_is_refused_with_its_cause(play: Player, request_: AttachRequest, words: str) -> None:
    def ask(stage: Stage) -> None:
        with pytest.raises(ChslurmError, match=words), stage.open(request_):
            pass

    play(ask)


@pytest.mark.parametrize("words", [b"\n", b"{}\n", b'{"kind":"destroy"}\n', b"\xff" * 70000 + b"\n", b'{"kind":"stop"'])
def test_what_is_no_request_starts_nothing(play: Player, words: bytes) -> None:
    def ask(stage: Stage) -> None:
        with stage.connect() as end:
            end.sendall(words)
            end.shutdown(socket.SHUT_WR)
            answer = end.recv(65536)
            assert answer == b"" or b"can't understand the request" in answer

    assert play(ask).stops == []


def test_stop_is_passed_on(play: Player) -> None:
    def ask(stage: Stage) -> None:
        with stage.open(AttachRequest(AttachKind.STOP)):
            pass

    assert play(ask).stops == ["stop"]


def test_another_user_is_not_served(play: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachserver, "read_peer_uid", lambda end: os.getuid() + 1)

    def ask(stage: Stage) -> None:
        with stage.connect() as end, suppress(ConnectionResetError, BrokenPipeError):
            end.sendall(encode(AttachRequest(AttachKind.STOP)))
            assert end.recv(100) == b""

    assert play(ask).stops == []


def test_an_impostor_is_not_believed(play: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachclient, "read_peer_uid", lambda end: os.getuid() + 1)

    def ask(stage: Stage) -> None:
        assert find_here(stage.plan, 1) is None

    play(ask)


def test_the_kernel_tells_who_is_there() -> None:
    """A child of another user, where we may make one, and ourselves."""
    one, other = socket.socketpair()
    with one, other:
        assert read_peer_uid(one) == os.getuid()
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    name = f"\0chslurm-test/{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        code = "import os, socket, sys; os.setuid(1234); s = socket.socket(socket.AF_UNIX)"
        code += "; s.connect(chr(0) + sys.argv[1]); s.recv(1)"
        with subprocess.Popen([sys.executable, "-c", code, name[1:]]):
            end, _ = listener.accept()
            with end:
                assert read_peer_uid(end) == 1234


def test_a_console_of_a_guest_that_has_ended_shows_its_end(play: Player) -> None:
    def look(stage: Stage) -> None:
        stage.tell(lambda: stage.console.say("the end"))
        stage.tell(stage.console.close)
        time.sleep(0.1)
        with stage.open(LOOK) as channel:
            assert read_until(channel, b"\n") == b"the end\r\n"
            assert os.read(channel.read_fd, 10) == b""

    play(look)


def test_a_connection_to_a_guest_that_was_killed_ends(play: Player) -> None:
    def connect(stage: Stage) -> None:
        assert stage.server is not None
        with stage.open(AttachRequest(AttachKind.CONNECT, guest=1, port=SILENT)) as channel:
            assert read_until(channel, b"\n") == b"guest 1, port 2\n"
            stage.tell(partial(stage.server.let_go, 1))
            assert os.read(channel.read_fd, 10) == b""

    play(connect)


def test_nobody_there_is_said_so(cluster: Plan) -> None:
    words = "can't reach guests on cn001: they do not run on this machine"
    with pytest.raises(ChslurmError, match=words), open_channel(cluster, cluster.host(1), LOOK):
        pass


def test_keys_that_are_gone_are_said_so(plan_of: PlanMaker) -> None:
    plan = plan_of(1, 1)
    with pytest.raises(ChslurmError, match="can't read the cluster's keys"), open_channel(plan, plan.host(1), LOOK):
        pass


def test_relay_answers_for_a_host_that_is_not_there(cluster: Plan) -> None:
    code = "import sys; from chslurm.plan import plan_from_json; from chslurm.host.attachclient import relay;"
    code += "relay(plan_from_json(open(sys.argv[1], 'rb').read()), 1)"
    plan = Path(cluster.job_dir, "plan.json")
    plan.write_bytes(plan_to_json(cluster))
    done = subprocess.run([sys.executable, "-c", code, plan], input=b"", capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"can't reach the guests of this node" in done.stdout


def test_a_mistyped_option_is_no_command() -> None:
    with pytest.raises(click.UsageError, match="--al"):
        exec_.make_context("exec", ["--al", "hostname"])


def test_commands_on_many_guests_are_labelled_and_the_worst_status_counts() -> None:
    code = """if True:
        import sys
        from chslurm.host.fanout import run_together
        script = "echo a$0; echo e$0 >&2; printf rest; exit $(($0 % 7))"
        sys.exit(run_together({f"chgu{n}": ["sh", "-c", script, str(n)] for n in range(40)}))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 6
    assert sorted(done.stdout.splitlines()) == sorted(f"chgu{n}: {w}" for n in range(40) for w in (f"a{n}", "rest"))
    assert sorted(done.stderr.splitlines()) == sorted(f"chgu{n}: e{n}" for n in range(40))


@pytest.mark.parametrize(
    ("words", "guest", "command"),
    [
        ([], 0, ()),
        (["2"], 2, ()),
        (["chgu1", "ls", "-l"], 1, ("ls", "-l")),
        (["--", "ls", "-l"], 0, ("ls", "-l")),
        (["1", "--", "ls", "--", "x"], 1, ("ls", "--", "x")),
        (["1", "ls", "--", "x"], 1, ("ls", "--", "x")),
    ],
)
def test_a_command_for_a_guest_is_taken_word_for_word(words: list[str], guest: int, command: tuple[str, ...]) -> None:
    context = ssh.make_context("ssh", words)
    assert (context.params["guest"], context.params["command"]) == (guest, command)
