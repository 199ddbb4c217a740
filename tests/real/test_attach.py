# SPDX-License-Identifier: Apache-2.0
"""A user who comes to a running cluster: consoles, ssh, scp, commands on all guests, stop; from wherever he is."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from realbox import Box, Job, wait_for

pytestmark = pytest.mark.real

BIG_MIB = 10
PROMPT = r"chgu\d.*\$ "
"""What is typed before it is there may be read by another program, or be thrown away after a Ctrl-C."""


class Screen:
    """A command of the user's on a terminal of its own."""

    def __init__(self, box: Box, *command: str, node: str = "login") -> None:
        argv = [box.program, "on", node, "--user", box.user, "--", "env", "-C", str(box.folder), *command]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(argv[0], argv)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def see(self, pattern: str, timeout_s: float = 60) -> str:
        """Wait until something new on the screen fits; return all that was new up to it."""
        deadline_s = time.monotonic() + timeout_s
        while (match := re.search(pattern, self.text)) is None:
            left_s = deadline_s - time.monotonic()
            if left_s < 0 or not select.select([self.fd], [], [], left_s)[0]:
                pytest.fail(f"never seen: {pattern!r} in {self.text[-2000:]!r}")
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            if not data:
                pytest.fail(f"ended before {pattern!r}: {self.text[-2000:]!r}")
            self.text += data.decode(errors="replace")
        seen, self.text = self.text[: match.end()], self.text[match.end() :]
        return seen

    def end(self) -> int:
        """Wait for the command and return its exit status."""
        try:
            while data := os.read(self.fd, 65536):
                self.text += data.decode(errors="replace")
        except OSError:
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def start_cluster(box: Box, *command: str, guests: int) -> Iterator[Job]:
    """An interactive cluster in job directory `c` whose guests all show a login."""
    with box.start(*command, "--jobdir=c", box.image) as head:
        job = Job(box, "")
        try:
            for guest in range(guests):
                job.wait_event("guest_ready", guest)
                console = job.dir / "out" / f"{guest}_console.out"
                wait_for(lambda path=console: "login: " in path.read_text(), 60, lambda path=console: path.read_text())  # type: ignore[misc]
            yield job
            output, _ = head.communicate(timeout=60)
            assert head.returncode == 0, output
        finally:
            head.terminate()


def log_in(screen: Screen, guest: int) -> None:
    screen.see(f"chgu{guest} login: ")
    screen.type("charlie\r")
    screen.see(PROMPT)


@pytest.mark.alone
def test_three_nodes_from_the_login_node(box: Box) -> None:
    with start_cluster(box, "salloc", "-N3", "chrun", guests=3) as job:
        check_commands_on_guests(box)
        check_copies(box, job)
        check_consoles(box)
        check_ssh_from_a_node(box)
        check_others_are_kept_out(box, job)
        stopped = box("chslurm", "stop", "-c", "c")
        assert stopped.returncode == 0, stopped.stderr
    assert not (job.dir / "ssh_config").exists()
    summary = job.summary()
    assert (summary["cause"], summary["text"]) == ("shutdown", "stopped by its user")
    late = box("chslurm", "ssh", "-c", "c", "0", "true")
    assert (late.returncode, "it has ended" in late.stderr) == (64, True), late.stderr


def check_commands_on_guests(box: Box) -> None:
    done = box("chslurm", "exec", "--all", "--", "hostname")
    assert sorted(done.stdout.splitlines()) == ["chgu0: chgu0", "chgu1: chgu1", "chgu2: chgu2"], done.stderr
    script = 'echo "$1 $CH_GUEST_ID"; exit $CH_GUEST_ID'
    worst = box("chslurm", "exec", "-w", "0,2", "--", "sh", "-c", script, "sh", "a b")
    assert (worst.returncode, sorted(worst.stdout.splitlines())) == (2, ["chgu0: a b 0", "chgu2: a b 2"]), worst.stderr
    one = box("chslurm", "ssh", "1", "--", "sudo", "whoami")
    assert (one.returncode, one.stdout) == (0, "root\n"), one.stderr
    steps = ("squeue", "--steps", "--noheader", "--format=%j")
    wait_for(lambda: "attach" not in box(*steps).stdout, 20, lambda: f"steps are left: {box(*steps).stdout}")
    lost = box("chslurm", "exec", "-w", "7", "--", "hostname")
    assert (lost.returncode, "not in this cluster" in lost.stderr) == (64, True)


def check_copies(box: Box, job: Job) -> None:
    """A large file goes to a guest on another node and comes back the same."""
    box("sh", "-c", f"head -c {BIG_MIB}M /dev/urandom >big")
    to_guest = box("scp", "-q", "-F", "c/ssh_config", "big", "chgu1:/ch/tmp/big", timeout_s=280)
    assert to_guest.returncode == 0, to_guest.stderr
    back = box("scp", "-q", "-F", "c/ssh_config", "chgu1:/ch/tmp/big", "back", timeout_s=280)
    assert back.returncode == 0, back.stderr
    digests = box("sha256sum", "big", "back").stdout.split()
    inside = box("ssh", "-F", "c/ssh_config", "chgu1", "sha256sum", "/ch/tmp/big").stdout.split()
    assert digests[0] == digests[2] == inside[0]


def check_consoles(box: Box) -> None:
    """Two who look at the console of a guest on another node see the same; the last one's size is the guest's."""
    one = Screen(box, "chslurm", "console", "1")
    log_in(one, 1)
    two = Screen(box, "sh", "-c", "stty rows 33 cols 101; exec chslurm console 1")
    two.see(PROMPT)
    one.type("sh -c 'stty size; sleep 30'\r")
    for screen in (one, two):
        assert "33 101" in screen.see(r"\d+ \d+\r\n")
    two.type("\x03")
    for screen in (one, two):
        screen.see(PROMPT)
    one.type("echo st$((1))ll here\r")
    for screen in (one, two):
        screen.see("st1ll here")
        screen.see(PROMPT)
    two.type("\x1dq")
    assert "left the console of chgu1; it goes on" in two.see("goes on")
    assert two.end() == 0
    one.type("echo ag$((1))in\r")
    one.see("ag1in")
    os.kill(one.pid, signal.SIGHUP)
    one.end()


def check_others_are_kept_out(box: Box, job: Job) -> None:
    """Another user finds no way in, though he knows where the cluster is and sees the name of its socket."""
    other = [box.program, "on", "cn001", "--user", "chother", "--"]
    named = subprocess.run([*other, "chslurm", "ssh", "-c", str(job.dir)], capture_output=True, text=True, check=False)
    assert (named.returncode, "Permission denied" in named.stderr) == (64, True), named.stderr
    asked = """if True:
        import socket
        (name,) = {line.split()[-1] for line in open("/proc/net/unix") if "@chslurm/" in line}
        end = socket.socket(socket.AF_UNIX)
        end.connect("\\0" + name[1:])
        try:
            end.sendall(b'{"kind":"stop"}\\n')
            print(end.recv(100))
        except OSError:
            print(b"")
    """
    python = [*other, "python3", "-c", asked]
    answer = subprocess.run(python, capture_output=True, text=True, check=False)
    assert (answer.stdout, answer.stderr) == ("b''\n", "")
    assert not (job.dir / "run" / "summary.json").exists()


def check_ssh_from_a_node(box: Box) -> None:
    """The same file serves on a node of the job: for its own guest, and for one of another node."""
    for guest in (0, 2):
        done = box("ssh", "-F", "c/ssh_config", f"chgu{guest}", "hostname", node="cn001")
        assert (done.returncode, done.stdout) == (0, f"chgu{guest}\n"), done.stderr


@pytest.mark.long  # the tutorial does the most of it
def test_curses_on_a_workstation(box: Box) -> None:
    """The console of guest 0 in the launcher's terminal: log in, leave, come back, shut down from inside."""
    command = ["vcluster", "-n2", "--cores=1", "--ram=512M", "--curses", "--jobdir=c", box.image]
    screen = Screen(box, "sh", "-c", 'stty rows 40 cols 120; exec "$@"', "sh", *command)
    screen.see("guest 0: +chgu0, 172.22.1.1")
    log_in(screen, 0)
    screen.type("sh -c 'stty size; sleep 77'\r")  # not a shell's own loop, which may miss a key between two programs
    screen.see("40 120\r\n")
    screen.type("\x03")
    screen.see(r"\^C")
    screen.see(PROMPT)
    screen.type("\x1dq")
    screen.see("left the console of chgu0; it goes on")
    screen.see("ready")
    again = Screen(box, "chslurm", "console")
    again.type("\r")
    again.see(PROMPT)
    again.type("sudo shutdown -h now\r")
    seen = again.see("oneguest done")
    assert "deleted ./c/run/0.tmp.qcow2" in seen
    assert again.end() == 0
    screen.see("guest 0 was shut down")
    assert screen.end() == 0


@pytest.mark.long
def test_curses_with_the_launcher_on_the_first_node(box: Box) -> None:
    """As where salloc leads to a node: the launcher is a task of a step with a terminal, guests run on two nodes."""
    command = ["salloc", "-N2", "srun", "-N1", "-n1", "--overlap", "--pty", "--mem=0"]
    screen = Screen(box, *command, "chrun", "--interactive", "--curses", "--jobdir=c", box.image)
    log_in(screen, 0)
    screen.type("ssh chgu1 'hostname; sudo whoami'\r")
    screen.see("chgu1\r\nroot\r\n")
    screen.see(PROMPT)
    screen.type("sudo shutdown -h now\r")
    screen.see("guest 0 was shut down")
    screen.end()
    summary = Job(box, "").summary()
    assert (summary["cause"], summary["exit_status"]) == ("shutdown", 0)


@pytest.mark.long
def test_hang_up_of_curses_ends_the_cluster(box: Box) -> None:
    command = ["vcluster", "-n1", "--cores=1", "--ram=512M", "--curses", "--jobdir=c", box.image]
    screen = Screen(box, *command)
    screen.see("chgu0 login: ")
    os.close(screen.fd)  # the terminal goes away: SIGHUP to all that runs in it
    os.waitpid(screen.pid, 0)
    wait_for((box.folder / "c" / "run" / "summary.json").exists, 40, lambda: "no summary")
    summary = Job(box, "").summary()
    assert (summary["cause"], summary["exit_status"]) == ("cancelled", 143)


def test_killed_head_leaves_the_terminal_in_order(box: Box) -> None:
    command = ["vcluster", "-n1", "--cores=1", "--ram=512M", "--curses", "--jobdir=c", box.image]
    screen = Screen(box, "sh", "-c", '"$@"; sleep 2; stty -a | grep -o "[-]*icanon"; echo over', "sh", *command)
    screen.see("chgu0 login: ")
    (head,) = _find_processes(box, "chslurm.cli.chrun", "vcluster")
    os.kill(head, signal.SIGKILL)
    seen = screen.see("over\r\n", 90)
    assert "\nicanon" in seen, seen
    screen.end()
    wait_for(lambda: not box.residue(), 60, box.residue)


def _find_processes(box: Box, *words: str) -> list[int]:
    """The user's processes of the launcher, by its program and the console option."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().decode(errors="replace").split("\0")
            if path.stat().st_uid != box.folder.stat().st_uid:
                continue
        except OSError:
            continue
        if "--curses" in argv and "python" in argv[0] and any(word in argv[1] for word in words):
            found.append(int(path.parent.name))
    return found


def test_xterms(box: Box, tmp_path: Path) -> None:
    """Each console in a window, which stays when its guest has ended, until it is closed. In use: see the tutorial."""
    display = f":{os.getpid() % 1000 + 100}"
    with subprocess.Popen(["Xvfb", display, "-nolisten", "tcp", "-screen", "0", "1280x800x8"]) as server:
        try:
            check_xterms(box, display)
        finally:
            server.terminate()


@contextmanager
def closing_head(head: subprocess.Popen[str]) -> Iterator[None]:
    """End it, whatever fails meanwhile, so that nothing waits for it."""
    try:
        yield
    finally:
        head.terminate()


def check_xterms(box: Box, display: str) -> None:
    command = ["env", f"DISPLAY={display}", "vcluster", "-n2", "--cores=1", "--ram=512M", "--xterm", "--jobdir=c"]
    with box.start(*command, box.image) as head, closing_head(head):
        job = Job(box, "")
        wait_for(lambda: len(find_windows(head)) == 2, 60, lambda: f"no windows: {job.events()}")
        windows = find_windows(head)
        box("chslurm", "stop", "-c", "c")
        wait_for((job.dir / "run" / "summary.json").exists, 60, lambda: "no summary")
        time.sleep(2)
        assert head.poll() is None, "it waits for its windows to be closed"
        for pid in windows:
            os.kill(pid, signal.SIGTERM)
        output, _ = head.communicate(timeout=30)
        assert head.returncode == 0, output
        assert "close the xterm windows to finish" in output


def find_windows(head: subprocess.Popen[str]) -> list[int]:
    return [pid for pid in _children(head.pid) if _name(pid) == "xterm"]


def _children(pid: int) -> list[int]:
    """All processes below one, as long as they live."""
    below = [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]
    return below + [deeper for child in below for deeper in _children(child)]


def _name(pid: int) -> str:
    return _read(f"/proc/{pid}/comm").strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # the process has ended
        return ""
