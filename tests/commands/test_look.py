# SPDX-License-Identifier: Apache-2.0
"""`chslurm ps`, `status`, `logs` and `completion` as users meet them, with clusters that only a head's files make."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import pytest
from terminals import Window, start_tmux

from chslurm.cli.chrun import chrun
from chslurm.cli.entry import run_command
from chslurm.cli.main import chslurm
from chslurm.cli.oneguest import oneguest
from chslurm.host.clusters import read_cluster, register_cluster
from chslurm.host.lock import hold_lock
from chslurm.jobdir import JobDir
from chslurm.look import LogKind, choose_logs, print_logs
from chslurm.plan import Mode, Plan, plan_to_json
from chslurm.report import make_summary, summary_to_json
from chslurm.siteconfig import CLUSTER_VARIABLE
from chslurm.supervise import Supervisor

FAKES = Path(__file__).parent.parent / "fakes" / "slurm"
STATIC = Path(__file__).parents[2] / "completions"

Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `chslurm ...`: (exit status, standard output, standard error)."""

    def invoke(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["chslurm", *words])
        status = run_command(chslurm, "chslurm")
        return status, *capsys.readouterr()

    return invoke


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, a working directory, and a SLURM that knows job 42."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_STATE_HOME", CLUSTER_VARIABLE, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{FAKES}:{os.environ['PATH']}")
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@dataclasses.dataclass
class Running:
    """A cluster whose head we play."""

    plan: Plan
    stack: ExitStack

    @property
    def dir(self) -> JobDir:
        return JobDir(Path(self.plan.job_dir))

    def write(self, name: str, data: bytes) -> None:
        with Path(self.dir.out, name).open("ab") as file:
            file.write(data)

    def end(self) -> None:
        supervisor = Supervisor(self.plan, 0.0)
        summary = summary_to_json(make_summary(self.plan, supervisor, 61.0))
        Path(self.dir.summary).write_bytes(summary)
        self.stack.close()


@pytest.fixture
def start(plan_of: Callable[..., Plan], cwd: Path) -> Iterator[Callable[..., Running]]:
    """Return a function that starts a cluster of two guests, which run their jobs."""
    with ExitStack() as all_heads:

        def begin(name: str = "c", number: int = 1, **changes: object) -> Running:
            plan = dataclasses.replace(
                plan_of(2, interactive=bool(changes.pop("interactive", False))),
                job_dir=str(cwd / name), cluster_id=f"{number:016x}", created=f"2026-01-02T03:04:{number:02}Z",
                **changes,  # type: ignore[arg-type]
            )  # fmt: skip
            job_dir = JobDir(cwd / name)
            for folder in (job_dir.run, job_dir.out):
                Path(folder).mkdir(parents=True, exist_ok=True)
            Path(job_dir.marker).write_text(f"{plan.cluster_id}\n")
            Path(job_dir.plan).write_bytes(plan_to_json(plan))
            kinds = ("guest_started", "guest_ready", "job_started")
            events = [(kind, guest) for guest in (0, 1) for kind in kinds]
            Path(job_dir.events).write_text(
                "".join(
                    json.dumps({"unix_s": 1767323045 + at, "kind": kind, "host": guest + 1, "guest": guest}) + "\n"
                    for at, (kind, guest) in enumerate(events)
                )
                + '{"unix_s": 1767323060, "kind": "phase", "phase": 1}\n'
            )
            stack = all_heads.enter_context(ExitStack())
            stack.enter_context(hold_lock(job_dir.lock, job_dir.lease(plan.cluster_id), name))
            stack.enter_context(register_cluster(plan, print))
            return Running(plan, stack)

        yield begin


# -- ps ---------------------------------------------------------------------------------------------------------------


def test_without_clusters_it_says_so(run: Run) -> None:
    assert run("ps") == (0, "", "no cluster of yours runs\n")
    assert run("ps", "--json") == (0, "[]\n", "")
    status, _, text = run("status")
    assert (status, text) == (
        64, "chslurm: no cluster of yours runs; name the job directory of one that has ended\n",
    )  # fmt: skip


def test_clusters_are_listed(run: Run, start: Callable[..., Running], cwd: Path) -> None:
    start("c", 1)
    start("on my machine", 2, mode=Mode.WORKSTATION, slurm_job_id="", time_limit_s=1e9)
    status, text, errors = run("ps")
    assert (status, errors) == (0, "")
    lines = text.splitlines()
    assert re.fullmatch(r"NAME +WHERE +GUESTS +STATE +AGE +LEFT +JOB DIRECTORY", lines[0])
    assert re.fullmatch(rf"c +job 42 +2/2 +running +\d+:\d\d:\d\d +0:09:59 +{cwd}/c", lines[1])
    assert re.fullmatch(rf"on my machine +cn001 +2/2 +running +\S+ +\d+:\d\d:\d\d +{cwd}/on my machine", lines[2])
    assert len({line.index("running") for line in lines[1:]}) == 1


def test_programs_get_json(run: Run, start: Callable[..., Running], cwd: Path) -> None:
    start()
    (found,) = json.loads(run("ps", "--json")[1])
    age_s = found.pop("age_s")
    assert found == {
        "name": "c", "cluster_id": "0000000000000001", "mode": "cluster", "host": "cn001", "slurm_job_id": "42",
        "slurm_state": "RUNNING", "running": True, "state": "running", "ready": 2, "guests": 2,
        "created": "2026-01-02T03:04:01Z", "left_s": 599.0, "job_dir": f"{cwd}/c",
    }  # fmt: skip
    assert age_s == pytest.approx(time.time() - 1767323041, abs=60)


@pytest.mark.parametrize(
    ("answer", "where", "left"),
    [("SUSPENDED|9:59", "job 42 SUSPENDED", "0:09:59"), ("RUNNING|UNLIMITED", "job 42", "-"), ("mute", "job 42", "0:")],
)
def test_slurms_word_is_taken_where_there_is_one(
    run: Run, start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, answer: str, where: str, left: str
) -> None:
    monkeypatch.setenv("FAKE_SQUEUE", answer)
    start("c", 1, end_time_unix_s=time.time() + 100)
    assert re.search(rf"^c +{where} +2/2 +running +\S+ +{left}", run("ps")[1], re.M)


def test_without_slurm_the_plan_is_believed(
    run: Run, start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nothing")
    start("c", 1, end_time_unix_s=time.time() + 100)
    (found,) = json.loads(run("ps", "--json")[1])
    assert (found["slurm_state"], found["left_s"]) == (None, pytest.approx(100, abs=60))


def test_ended_ones_are_listed_when_asked_for(run: Run, start: Callable[..., Running]) -> None:
    start("c", 1)
    start("d", 2).end()
    assert [row["name"] for row in json.loads(run("ps", "--json")[1])] == ["c"]
    rows = json.loads(run("ps", "-a", "--json")[1])
    assert [(row["name"], row["running"], row["state"]) for row in rows] == [
        ("c", True, "running"), ("d", False, "ended"),
    ]  # fmt: skip


def test_a_killed_head_is_forgotten_and_its_cluster_called_dead(
    run: Run, start: Callable[..., Running], tmp_path: Path
) -> None:
    running = start()
    entry = tmp_path / "home/.local/state/chslurm/clusters" / running.plan.cluster_id
    text, lease = entry.read_text(), Path(running.dir.lease(running.plan.cluster_id))
    lease_text = lease.read_text()
    running.stack.close()
    entry.write_text(text)
    lease.write_text(lease_text)
    assert run("ps") == (0, "", "no cluster of yours runs\n")
    assert not entry.exists()
    assert json.loads(run("ps", "-a", "--json")[1])[0]["state"] == "died"


def test_a_cluster_on_another_nodes_disk_is_named(run: Run, start: Callable[..., Running], tmp_path: Path) -> None:
    running = start()
    entry = tmp_path / "home/.local/state/chslurm/clusters" / running.plan.cluster_id
    changed = {**json.loads(entry.read_text()), "job_dir": "/scratch/of/cn001/c", "machine": "x", "host": "cn001"}
    entry.write_text(json.dumps(changed))
    _, text, _ = run("ps")
    assert re.search(r"^c +job 42 +\? +elsewhere +\S+ +- +/scratch/of/cn001/c$", text, re.M)


def test_on_a_terminal_nothing_is_left_out(start: Callable[..., Running]) -> None:
    start("[bold]a name that is much longer than it should be, really")
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "chslurm.cli.main", "ps"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "70"}
    done = subprocess.run(argv, stdout=theirs, env=environment, check=True)
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert (done.returncode, "\x1b[1m" in text) == (0, True)
    seen = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(len(line) for line in seen.splitlines()) <= 70
    assert "[bold]a" in seen
    assert seen.count("2/2") == 1


@pytest.mark.parametrize(
    "words",
    [
        "ps -a", "status", "status -c ./c", "logs", "console", "ssh", "exec date", "stop", "connect 0",
        "image info a", "image history a", "image create a", "image commit a", "image check a", "image build",
    ],
)  # fmt: skip
def test_in_a_directory_that_is_gone_it_says_so(run: Run, cwd: Path, words: str) -> None:
    cwd.rmdir()
    told = "chslurm: current directory: No such file or directory; cd to one that exists\n"
    assert run(*words.split()) == (64, "", told)


def test_an_absolute_path_means_the_same_where_no_directory_is(
    run: Run, start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run("status", "-c", running.plan.job_dir)[::2] == (0, "")
    assert run("ps")[::2] == (0, "")
    monkeypatch.setenv(CLUSTER_VARIABLE, running.plan.job_dir)
    assert run("logs")[::2] == (0, "")
    assert run("image", "info", "/no/image")[::2] == (64, "chslurm: image '/no/image': No such file or directory\n")


# -- status -----------------------------------------------------------------------------------------------------------


def test_status_of_a_cluster_that_runs(run: Run, start: Callable[..., Running], cwd: Path) -> None:
    running = start()
    status, text, errors = run("status")
    assert (status, errors) == (0, "")
    facts, _, table = text.partition("\n\n")
    found = dict(re.findall(r"^([a-z ]+): +(.*)$", facts, re.M))
    since = time.strftime("%FT%T", time.localtime(1767323060))
    assert found == {
        "cluster": "c (0000000000000001)", "runs on": "job 42, 0:09:59 left", "state": f"running since {since}",
        "job directory": f"{cwd}/c",
    }  # fmt: skip
    rows = table.splitlines()
    assert re.fullmatch(r"ID +NAME +NODE +ADDRESS +STATE +STAGE +STATUS +SINCE", rows[0])
    assert re.fullmatch(r"1 +chgu1 +cn002 +172\.22\.2\.1 +running job +- +- +2026-01-0\dT\d\d:\d\d:10", rows[2])
    value = json.loads(run("status", "--json", "-c", running.plan.cluster_id)[1])
    assert (value["name"], value["state"], len(value["guests"])) == ("c", "running", 2)
    assert value["guests"][0]["since_unix_s"] == 1767323047


def test_status_of_one_that_has_ended(run: Run, start: Callable[..., Running]) -> None:
    start().end()
    status, text, _ = run("status", "-c", "c")
    assert status == 0
    assert re.search(r"^state: +ended", text, re.M)
    assert re.search(r"^exit status: +70$", text, re.M)
    assert re.search(r"^took: +0:01:01$", text, re.M)


def test_what_is_damaged_is_passed_over(run: Run, start: Callable[..., Running]) -> None:
    running = start()
    with Path(running.dir.events).open("a") as journal:
        journal.write('{"unix_s": 1e300, "kind": "guest_lost", "host": 1, "guest": 0}\n')
        journal.write('{"unix_s": -1e18, "kind": "phase", "phase": 2}\n')
    running.end()
    with Path(running.dir.summary).open("ab") as summary:
        summary.write(b" " * (17 << 20))  # still JSON, but none that we wrote
    status, text, errors = run("status", "-c", "c")
    assert (status, errors) == (0, "")
    assert re.search(r"^state: +died since 2026", text, re.M)
    assert re.search(r"^0 +chgu0 .* running ", text, re.M)


# -- logs -------------------------------------------------------------------------------------------------------------


def test_logs_of_a_job_are_its_output_and_errors(run: Run, start: Callable[..., Running]) -> None:
    running = start()
    running.write("0_job.out", b"hello\nno end")
    running.write("0_job.err", b"oh\n")
    running.write("1_job.out", b"\x1b[31mhostile\x07\r\n")
    running.write("0_console.out", b"[  OK  ] booted\r\n")
    assert run("logs")[:2] == (0, "chgu0: hello\nchgu0: no end\nchgu0 err: oh\nchgu1: hostile^G\n")
    assert run("logs", "-w", "chgu0", "--job")[:2] == (0, "hello\nno end\n")
    assert run("logs", "-w", "0", "--console", "--err")[:2] == (
        0, "chgu0: [  OK  ] booted\nchgu0 err: oh\n",
    )  # fmt: skip
    assert run("logs", "-n1", "--job")[1] == "chgu0: no end\nchgu1: hostile^G\n"
    assert run("logs", "-w", "0,2")[0::2] == (64, "chslurm: guest 2: not in this cluster; it has 0 to 1\n")
    running.end()
    assert run("logs", "-c", "c", "-w0", "--job")[:2] == (0, "hello\nno end\n")


def test_logs_without_a_job_are_the_consoles(run: Run, start: Callable[..., Running]) -> None:
    running = start(interactive=True)
    running.write("1_console.out", b"chgu1 login: ")
    assert run("logs")[:2] == (0, "chgu1: chgu1 login: \n")
    running.write("1_oneguest.out", b"deleted\n")
    running.write("net_1_pasta.out", b"said pasta\n")
    running.write("step.out", b"said srun\n")
    assert run("logs", "--host")[1] == "chgu1: deleted\nnet_1_pasta: said pasta\nstep: said srun\n"


def test_logs_are_followed_to_the_end_of_the_cluster(run: Run, start: Callable[..., Running]) -> None:
    running = start()
    running.write("0_job.out", b"old\n1")

    def work() -> None:
        time.sleep(0.6)
        running.write("0_job.out", b" %\r2 %")
        running.write("1_job.out", b"other\n")
        time.sleep(2.0)
        running.write("0_job.out", b"\r3 %\nlast")
        time.sleep(0.3)
        running.write("0_job.out", b" words")
        running.end()

    worker = threading.Thread(target=work)
    worker.start()
    status, text, _ = run("logs", "-f", "--job")
    worker.join()
    assert (status, text) == (
        0, "chgu0: old\nchgu1: other\nchgu0: 2 %\nchgu0: 3 %\nchgu0: last words\n",
    )  # fmt: skip


@pytest.mark.parametrize("follow", [False, True])
def test_a_guest_that_prints_faster_than_it_is_shown_keeps_no_other_back(
    start: Callable[..., Running], follow: bool
) -> None:
    running = start()
    line = b"x" * 79 + b"\n"
    running.write("0_job.out", line * 5000)
    running.write("1_job.out", b"the other\n")
    cluster, shown = read_cluster(Path(running.plan.job_dir)), ""

    def write(text: str) -> None:
        nonlocal shown
        shown += text
        assert len(shown) < 10 * 80 * 5000, "it does not end"
        if "chgu1: the other" not in shown:
            running.write("0_job.out", line * 2 * (text.count("\n") + 1))
        elif cluster.running:
            running.end()

    print_logs(cluster, choose_logs(cluster, (LogKind.JOB,), None), write, lines=None, follow=follow)
    assert shown.count("chgu1: the other\n") == 1
    if not follow:
        assert shown.count("chgu0: ") == 5000


def test_a_directory_used_again_is_followed_on(run: Run, start: Callable[..., Running]) -> None:
    first = start()
    first.write("0_job.out", b"a long text of the first\n")

    def work() -> None:
        time.sleep(0.5)
        Path(first.dir.plan).unlink()
        first.stack.close()
        time.sleep(1.2)
        os.truncate(first.dir.job_output(0), 0)
        second = start("c", 2)
        second.write("0_job.out", b"second\n")
        time.sleep(1.5)
        second.end()

    worker = threading.Thread(target=work)
    worker.start()
    status, text, _ = run("logs", "-f", "-c", "c", "-w0", "--job")
    worker.join()
    assert (status, text) == (0, "a long text of the first\nsecond\n")


def test_ctrl_c_ends_following(start: Callable[..., Running]) -> None:
    start().write("0_job.out", b"one\n")
    argv = [sys.executable, "-m", "chslurm.cli.main", "logs", "-f", "-w0", "--job"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "one\n"
        follower.send_signal(signal.SIGINT)
        output, errors = follower.communicate(timeout=10)
    assert (follower.returncode, output, errors) == (130, "", "")


def test_a_terminal_of_another_encoding_gets_nothing_else(start: Callable[..., Running]) -> None:
    start().write("0_job.out", "é ☃ \u202e\n".encode())
    argv = [sys.executable, "-m", "chslurm.cli.main", "logs", "-w0", "--job"]
    for encoding, expected in (("latin-1", "é \\u2603 \\u202e\n"), ("ascii", "\\xe9 \\u2603 \\u202e\n")):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(argv, capture_output=True, env=environment, check=True)
        assert done.stdout.decode(encoding) == expected


def test_memory_is_bounded(start: Callable[..., Running]) -> None:
    running = start()
    path = Path(running.dir.job_output(0))
    with path.open("wb") as file:
        file.write(b"line\n" * 100)
        file.truncate(64 << 20)  # a hole: a line of zeros that does not end
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (56 << 20,) * 2);"
        "from chslurm.cli.main import main; main()"
    )
    argv = [sys.executable, "-c", code, "logs", "-w0", "--job", "-n2"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        size = 0
        while part := done.stdout.read(1 << 16):
            size += len(part)
        assert (done.wait(), done.stderr.read()) == (0, b"")
    assert size == len("line\n") + 2 * ((64 << 20) - 500) + len("\n")


# -- completion -------------------------------------------------------------------------------------------------------


def complete_in_bash(*words: str) -> list[str]:
    """What bash offers for a command line whose last word is not complete, with the function that it really runs."""
    programs = Path(sys.executable).parent
    line = " ".join(f"'{word}'" for word in words)
    script = (
        f'eval "$("{sys.executable}" -m chslurm.cli.main completion bash)"\n'
        f'chslurm() {{ :; }}; compopt() {{ local IFS=" "; echo "compopt $*"; }}\n'
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        f'function_name=$(complete -p "{words[0]}" | sed "s/.*-F //; s/ .*//")\n'
        f'"$function_name" "{words[0]}" && printf "%s\\n" "${{COMPREPLY[@]}}"\n'
    )
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    argv = ["bash", "--norc", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment, check=True)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def test_bash_completes(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    start("charlie.1", 1)
    start("charlie.2", 2)
    start("$(touch x)", 3)
    assert complete_in_bash("chslurm", "sta") == ["status"]
    assert complete_in_bash("chslurm", "logs", "-c", "cha") == ["charlie.1", "charlie.2"]
    assert complete_in_bash("chslurm", "logs", "-c", "") == ["charlie.1", "charlie.2"]
    assert complete_in_bash("chslurm", "logs", "-c", "charlie.1", "-w", "0,") == ["0,0", "0,1"]
    assert complete_in_bash("chslurm", "logs", "-c", "charlie.1", "-w", "ch") == ["chgu0", "chgu1"]
    assert complete_in_bash("chslurm", "logs", "-w", "") == [""]  # which cluster is not clear
    assert complete_in_bash("chslurm", "logs", "-c", "x")[0] == "compopt -o dirnames"
    assert complete_in_bash("chslurm", "logs", "-c", "./")[0] == "compopt -o dirnames"
    monkeypatch.setenv(CLUSTER_VARIABLE, "charlie.2")
    assert complete_in_bash("chslurm", "logs", "-w", "") == ["0", "1"]
    assert complete_in_bash("chrun", "im")[0] == "compopt -o default"
    assert complete_in_bash("vcluster", "--dir", "da")[0] == "compopt -o dirnames"
    assert complete_in_bash("chrun", "--jobd") == ["--jobdir"]
    assert complete_in_bash("oneguest", "--fo") == ["--force"]
    Path("vm").mkdir()
    for name in ("image.qcow2", "other.raw", "notes.txt", "odd name.qcow2"):
        Path("vm", name).touch()
    assert complete_in_bash("chrun", "vm/") == ["compopt -o dirnames", "vm/image.qcow2", "vm/other.raw"]
    assert complete_in_bash("chslurm", "image", "info", "vm/o")[1:] == ["vm/other.raw"]
    assert complete_in_bash("chrun", "vm/no")[0] == "compopt -o default"  # whatever there is
    assert complete_in_bash("chslurm", "template", "show", "chm") == ["chmany", "chmpi"]


TYPED = {
    "bash": ("--norc", "PS1='> '; for p in chslurm chrun; do . {static}/bash/$p; done"),
    "zsh": ("-f", "PS1='> '; fpath=({static}/zsh $fpath); autoload -U compinit; compinit -u -D"),
    "fish": ("--no-config", "function fish_prompt; echo '> '; end; for p in {static}/fish/*.fish; source $p; end"),
}


@pytest.mark.parametrize("shell", TYPED)
def test_tab_completes_images_and_guests(start: Callable[..., Running], cwd: Path, tmp_path: Path, shell: str) -> None:
    """Typed in a terminal, with the files that are installed for this shell."""
    if shutil.which(shell) is None or shutil.which("tmux") is None:
        pytest.skip(f"{shell} or tmux is not installed")
    start("charlie.1", 1)
    Path("vm").mkdir()
    Path("vm", "image.qcow2").touch()
    Path("vm", "notes.txt").touch()
    option, setup = TYPED[shell]
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    with start_tmux(tmp_path) as tmux:
        window = tmux.open(shell, ["env", "-C", str(cwd), f"HOME={os.environ['HOME']}", path, shell, option])
        window.type(setup.format(static=STATIC))
        window.type("clear; echo ready")
        wait_for(partial(is_shown, window, "^ready"), window)
        for typed, shown in (
            ("chrun --job x vm/im", r"> chrun --job x vm/image\.qcow2"),
            ("chslurm console -c cha", r"> chslurm console -c charlie\.1"),
            ("chslurm console -c charlie.1 chgu", r"^chgu0 +chgu1"),
            ("chslurm logs -c charlie.1 -w 0,", r"^0,0 +0,1"),
        ):
            if shell == "fish" and typed.endswith(","):
                continue  # click's script for fish takes the comma for its own
            window.press("C-u")
            window.tmux("send-keys", "-t", window.name, "-l", "--", typed)
            window.press("Tab", "Tab")
            wait_for(partial(is_shown, window, shown), window)


def is_shown(window: Window, pattern: str) -> bool:
    return re.search(pattern, "\n".join(window.read()), re.MULTILINE) is not None


def wait_for(look: Callable[[], bool], window: Window) -> None:
    until_s = time.monotonic() + 60
    while not look():
        assert time.monotonic() < until_s, "\n".join(window.read())
        time.sleep(0.1)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_script(run: Run, shell: str) -> None:
    status, text, _ = run("completion", shell)
    assert status == 0
    for program in ("chslurm", "chrun", "vcluster", "oneguest"):
        assert f"_{program.upper()}_COMPLETE={shell}_complete" in text
    argv = [shell, "-n", "/dev/stdin"]
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip(f"{shell} is not installed")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_answered(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    start("charlie.1", 1)
    words = "chslurm status -c ch" if shell == "zsh" else "chslurm status -c"
    monkeypatch.setenv("_CHSLURM_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", "3" if shell == "zsh" else "ch")
    with pytest.raises(SystemExit) as end:
        run_command(chslurm, "chslurm")
    assert (end.value.code, capsys.readouterr().out.split("\n")[:2]) == (
        0, ["plain", "charlie.1"] if shell == "zsh" else ["plain,charlie.1", ""],
    )  # fmt: skip


def test_words_of_a_choice_are_offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words, offered in {
        "chrun --tunnel ": ["auto", "wireguard", "vxlan"],
        "oneguest --accel k": ["kvm"],
        "chslurm net check --network ro": ["rootless"],
    }.items():
        program = words.split()[0]
        monkeypatch.setenv(f"_{program.upper()}_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        with pytest.raises(SystemExit):
            run_command({"chrun": chrun, "oneguest": oneguest, "chslurm": chslurm}[program], program)
        assert capsys.readouterr().out.split() == [f"plain,{word}" for word in offered]


@pytest.mark.parametrize("words", [("report", "--json"), ("image", "create", "--size")])
def test_an_option_without_its_value_leads_to_its_own_help(run: Run, words: tuple[str, ...]) -> None:
    *path, option = words
    told = f"chslurm: Option '{option}' requires an argument; see chslurm {' '.join(path)} --help\n"
    assert run(*words) == (64, "", told)


def test_an_unknown_shell_is_refused(run: Run) -> None:
    status, _, text = run("completion", "tcsh")
    assert (status, text.count("\n")) == (64, 1)
    assert isinstance(chrun, click.Command)
