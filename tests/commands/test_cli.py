# SPDX-License-Identifier: Apache-2.0
"""The commands as users meet them: help, one line for each mistake, exit statuses, nothing made too early."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from chslurm.cli.chrun import chrun
from chslurm.cli.entry import run_command
from chslurm.cli.main import chslurm
from chslurm.cli.oneguest import oneguest
from chslurm.cli.progress import start_progress
from chslurm.cluster import Progress
from chslurm.errors import ChslurmError
from chslurm.host import place
from chslurm.plan import User

FAKES = Path(__file__).parent.parent / "fakes" / "slurm"

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command: (exit status, standard output, standard error)."""

    def run(command: click.Command, *words: str, name: str = "chrun") -> Outcome:
        monkeypatch.setattr(sys, "argv", [name, *words])
        status = run_command(command, name)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def folder(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory of an ordinary user outside of SLURM, with an image, a job script and some traps."""
    for name in [name for name in os.environ if name.startswith("SLURM") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    if os.geteuid() == 0:
        monkeypatch.setattr(place, "read_user", lambda: User("user", 1000, 1000, ()))
    home = tmp_path / "a folder, of mine"
    shutil.copytree(images, home, symlinks=True)
    monkeypatch.chdir(home)
    Path("text").write_text("hello\n")
    Path("empty").touch()
    os.mkfifo("fifo")
    Path("dangling").symlink_to("nowhere")
    Path("to-here").symlink_to(".")
    for part in ("run", "meta/sync"):
        Path("used", part).mkdir(parents=True)
    Path("used/.chslurm").write_text("0123456789abcdef\n")
    Path("to-run").symlink_to("used/run")
    for name, text in (("job.sh", "#!/bin/sh\n"), ("dos.sh", "#!/bin/sh\r\n")):
        Path(name).write_text(text)
        Path(name).chmod(0o755)
    return home


@pytest.mark.usefixtures("folder")
def test_windows_that_cannot_be_opened_are_refused_first(invoke: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    status, _, error = invoke(chrun, "--vga", "image.qcow2")
    assert (status, error.count("\n")) == (64, 1)
    assert "neither DISPLAY nor WAYLAND_DISPLAY is set; work on" in error


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad images."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()

    def make_image(path: str, *options: str) -> None:
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "64M"]
        subprocess.run(argv, check=True, timeout=20, cwd=folder)

    make_image("image.qcow2")
    make_image("outside.qcow2", "-b", "/etc/hostname", "-F", "raw")
    make_image("sub/base.qcow2")
    make_image("other.qcow2", "-b", "sub/base.qcow2", "-F", "qcow2")
    make_image("layer.qcow2", "-b", "image.qcow2", "-F", "qcow2")
    make_image("data.qcow2", "-o", "data_file=data.raw")
    (folder / "broken.qcow2").write_bytes((folder / "image.qcow2").read_bytes()[:72])
    (folder / "link.qcow2").symlink_to("sub/base.qcow2")
    make_image("byname.qcow2", "-b", "link.qcow2", "-F", "qcow2")
    full = folder / "full.qcow2"
    make_image(str(full))
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 8M", full], check=True, timeout=20, capture_output=True)
    (folder / "cut.qcow2").write_bytes(full.read_bytes()[:-4_000_000])
    make_image("oncut.qcow2", "-b", "cut.qcow2", "-F", "qcow2")
    return folder


@pytest.fixture
def slurm_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> Path:
    """Be inside SLURM job 42 of three nodes; returns the log of what scontrol was asked."""
    log = tmp_path / "scontrol.log"
    monkeypatch.setenv("PATH", f"{FAKES}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_LOG", str(log))
    for name, value in {
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "cn[001-003]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_JOB_CPUS_PER_NODE": "4(x2),2",
    }.items():
        monkeypatch.setenv(name, value)
    return log


# -- what can be read -------------------------------------------------------------------------------------------------


def test_help_is_complete(invoke: Command) -> None:
    status, text, _ = invoke(chrun, "--help", name="vcluster")
    assert status == 0
    assert "Usage: vcluster [OPTIONS] [IMAGE] [-- ARGUMENTS...]" in text
    options = (
        "-n -i -d --job --interactive --dir --jobdir --jobbase --jobname --cores --ram --my-size --cleanup --nosync"
    )
    options += " --time-limit --tmp-dir --tmp-size --accel --tunnel --boot-timeout --dry-run --explain --version"
    options += " --log-size"
    assert [option for option in options.split() if not re.search(rf"(^|\s){option}[\s,]", text)] == []
    assert re.findall(r"^ +(\d+)  ", text, re.MULTILINE) == ["64", "70", "124", "130", "143"]


@pytest.mark.parametrize(("command", "name"), [(oneguest, "oneguest"), (chslurm, "chslurm")])
def test_every_command_has_help_and_a_version(invoke: Command, command: click.Command, name: str) -> None:
    assert invoke(command, "--help", name=name)[:1] == (0,)
    status, text, _ = invoke(command, "--version", name=name)
    assert (status, bool(re.fullmatch(rf"{name} \d+\.\d+\.\d+\n", text))) == (0, True)


def test_subcommands_have_help(invoke: Command) -> None:
    assert "image" in invoke(chslurm, "--help", name="chslurm")[1]
    assert "--suite" in invoke(chslurm, "image", "build", "--help", name="chslurm")[1]


@pytest.mark.parametrize("words", ["-n 2", "--jobdir c", "--tunnel vxlan", "--second-user nobody"])
def test_what_takes_guests_is_refused_where_none_boot(invoke: Command, words: str) -> None:
    status, _, told = invoke(chslurm, "net", "check", "--taps", *words.split(), name="chslurm")
    assert (status, "--taps boots nothing; only" in told) == (64, True)


def test_prolog_imports_nothing_that_takes_time() -> None:
    """A job's start waits for it; what WireGuard and jobs that are over take is loaded when there are any."""
    code = "import sys, chslurm.cli.prolog, chslurm.prolog; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert not {"asyncio", "chslurm.plan", "click", "cryptography", "hashlib", "json", "msgspec", "rich"} & set(
        done.stdout.split()
    )


def test_help_imports_nothing_that_takes_time() -> None:
    code = "import sys, chslurm.cli.chrun; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert not {"rich", "msgspec", "cryptography", "hostlist", "asyncio", "subprocess"} & set(done.stdout.split())


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Missing argument 'IMAGE'"),
        ("--jobb x image.qcow2", "--jobb"),
        ("-n", "-n"),
        ("--foo image.qcow2", "No such option '?--foo"),
        ("none.qcow2", "image '.*/none.qcow2': No such file or directory"),
        ("dangling", "image '.*/dangling': No such file"),
        ("image.qcow2/x", "Not a directory"),
        (".", "a directory; give a file"),
        ("fifo", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("text", "not a disk image"),
        ("empty", "not a disk image"),
        ("broken.qcow2", "not usable"),
        ("outside.qcow2", "backing file '/etc/hostname' does not lie beside it"),
        ("other.qcow2", "backing file 'sub/base.qcow2' does not lie beside it"),
        ("byname.qcow2", "backing file 'link.qcow2' does not lie beside it"),
        ("cut.qcow2", "image '.*/cut.qcow2': it is cut off or damaged"),
        ("oncut.qcow2", "image '.*/cut.qcow2': it is cut off or damaged"),
        ("data.qcow2", "its data is in another file"),
        ("x" * 300, "File name too long"),
        ("-n 0 image.qcow2", "-n '0'"),
        ("--commit 2 image.qcow2 --ram 300M", "--commit 2: no such guest"),
        ("-n 1000 image.qcow2", "can't place 1000 guests on one host"),
        ("--ram 4G; image.qcow2", "--ram '4G;'"),
        ("--ram 9223372036854775808 image.qcow2", "out of range"),
        ("--ram 900T image.qcow2", "2 guests with 900 TiB RAM each: this machine's .* allow .* each"),
        ("--job none.sh image.qcow2", "--job '.*/none.sh': No such file"),
        ("--job text image.qcow2", "not executable; chmod"),
        ("--job sub image.qcow2", "a directory"),
        ("--job dos.sh image.qcow2", "lines end as on Windows"),
        ("-d none image.qcow2", "--dir '.*/none': No such file"),
        ("-d text image.qcow2", "--dir '.*/text': not a directory"),
        ("-d sub -d sub image.qcow2", "given twice"),
        ("-d . image.qcow2", "--dir '.*': the job directory would lie in it"),
        ("-d to-here --jobdir sub/x image.qcow2", "--dir '.*/to-here': the job directory would lie in it"),
        ("-d sub --jobbase sub image.qcow2", "the job directory would lie in it"),
        ("-d used --jobdir used image.qcow2", "the job directory would lie in it"),
        ("-d used/meta/sync --jobdir used image.qcow2", "--dir '.*/sync': it lies in the job directory"),
        ("-d to-run --jobdir used image.qcow2", "--dir '.*/to-run': it lies in the job directory"),
        ("--jobdir sub image.qcow2", "not one of yours that this tool made"),
        ("--jobdir none/x image.qcow2", "job directory .*: No such file"),
        ("--jobbase text image.qcow2", "job directory"),
        ("--tmp-dir none image.qcow2", "--tmp-dir"),
        ("image.qcow2 -- a b", "add --job FILE"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_mistake_is_one_line_and_status_64(invoke: Command, words: str, message: str) -> None:
    before = sorted(Path().rglob("*"))
    status, out, err = invoke(chrun, *words.split())
    assert (status, out) == (64, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("chrun: ")
    assert re.search(message, err)
    assert sorted(Path().rglob("*")) == before, "nothing was made"


@pytest.mark.usefixtures("folder")
def test_names_that_are_not_utf8_are_refused_in_one_line(invoke: Command) -> None:
    status, _, err = invoke(chrun, os.fsdecode(b"\xff\n.qcow2"))
    assert status == 64
    assert err == "chrun: IMAGE '\\udcff\\n.qcow2': not UTF-8; rename it\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="asks what root is told")
def test_root_is_refused(invoke: Command) -> None:
    status, _, err = invoke(chrun, "image.qcow2")
    assert status == 64
    assert "can't run as root" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.usefixtures("folder")
def test_what_may_not_be_read_is_refused(invoke: Command) -> None:
    for name in ("image.qcow2", "job.sh", "sub"):
        Path(name).chmod(0o100)
        assert invoke(chrun, "--job", "job.sh", "--dir", "sub", "image.qcow2")[0] == 64
        Path(name).chmod(0o700)


def test_a_directory_that_is_gone(invoke: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    status, _, err = invoke(chrun, "image.qcow2")
    assert (status, err) == (64, "chrun: current directory: No such file or directory; cd to one that exists\n")


# -- the plan ---------------------------------------------------------------------------------------------------------


def plan_of(outcome: Outcome) -> dict[str, Any]:
    status, out, err = outcome
    assert (status, err) == (0, "")
    plan: dict[str, Any] = json.loads(out)
    return plan


def test_a_dry_run_prints_the_plan_and_makes_nothing(invoke: Command, folder: Path) -> None:
    (folder / "li\nne").mkdir()
    before = sorted(folder.rglob("*"))
    words = [
        "-n3",
        "--cores",
        "1",
        "--ram",
        "300M",
        "--job",
        "job.sh",
        "-d",
        "li\nne",
        "--dry-run",
        "layer.qcow2",
        "--",
        "-x",
    ]
    plan = plan_of(invoke(chrun, *words, name="vcluster"))
    assert plan["mode"] == "workstation"
    assert len(plan["guests"]) == 3
    assert [layer["path"] for layer in plan["image"]["layers"]] == [f"{folder}/layer.qcow2", f"{folder}/image.qcow2"]
    assert plan["image"]["layers"][1]["inode"] == (folder / "image.qcow2").stat().st_ino
    assert plan["job"] == {"script": f"{folder}/job.sh", "arguments": ["-x"], "interactive": False, "name": "charlie"}
    assert plan["shares"] == [{"tag": "data1", "path": f"{folder}/li\nne"}]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.usefixtures("folder")
def test_an_image_within_a_share_is_a_warning(invoke: Command, tmp_path: Path) -> None:
    words = ("--ram", "300M", "--dir", ".", "--jobbase", str(tmp_path), "--dry-run", "image.qcow2")
    plan = plan_of(invoke(chrun, *words))
    assert any(re.fullmatch("the image lies in --dir .*: guests can change it", text) for text in plan["warnings"])


@pytest.mark.parametrize("module", ["chrun", "oneguest"])
def test_what_commands_make_is_private(module: str) -> None:
    code = f"import os, chslurm.cli.{module} as it; it.run_command = lambda *_: os.umask(0); it.main()"
    done = subprocess.run([sys.executable, "-c", code], timeout=20, umask=0)
    assert done.returncode == 0o077


@pytest.mark.usefixtures("slurm_job")
def test_in_a_slurm_job_sizes_are_the_nodes(invoke: Command, slurm_job: Path) -> None:
    plan = plan_of(invoke(chrun, "--dry-run", "image.qcow2"))
    assert plan["mode"] == "cluster"
    assert [(host["name"], host["cores"], host["memory_mib"]) for host in plan["hosts"]] == [
        ("cn001", 4, 8000),
        ("cn002", 4, 8000),
        ("cn003", 2, 4000),
    ]
    assert plan["deadlines"]["cancel_s"] == 3.0
    assert plan["end_time_unix_s"] is not None
    assert [json.loads(line) for line in slurm_job.read_text().splitlines()] == [
        ["-o", "show", "node", "cn[001-003]"],
        ["-o", "show", "job", "42"],
        ["show", "config"],
    ]


@pytest.mark.usefixtures("slurm_job")
def test_without_a_controller_stated_memory_is_enough(invoke: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SCONTROL", "mute")
    status, _, err = invoke(chrun, "--dry-run", "image.qcow2")
    assert status == 64
    assert "can't find out its memory" in err
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2000")
    assert plan_of(invoke(chrun, "--dry-run", "image.qcow2"))["end_time_unix_s"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_JOB_NODELIST", "n[1-"),
        ("SLURM_JOB_CPUS_PER_NODE", "2(x0)"),
        ("SLURM_JOB_NUM_NODES", "2"),
        ("SLURM_MEM_PER_CPU", "lots"),
    ],
)
@pytest.mark.usefixtures("slurm_job")
def test_garbled_variables_of_slurm(invoke: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    status, out, err = invoke(chrun, "--dry-run", "image.qcow2")
    assert (status, out) == (64, "")
    assert name in err
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("slurm_job")
def test_explain_shows_the_step_without_what_would_bend_it(invoke: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "6")
    monkeypatch.setenv("SLURM_DISTRIBUTION", "cyclic")
    status, out, _ = invoke(chrun, "--explain", "image.qcow2")
    assert status == 0
    step = next(line for line in out.splitlines() if " srun " in line)
    assert step.split()[:5] == ["env", "-u", "SLURM_DISTRIBUTION", "-u", "SLURM_NTASKS"]
    assert "-u SLURM_JOB_ID" not in step
    for option in ("--nodes=3", "--ntasks=3", "--overlap", "--cpu-bind=none", "--mpi=none", "--mem=0", "--input=all"):
        assert option in step


@pytest.mark.usefixtures("slurm_job")
@pytest.mark.parametrize(
    ("tunnel", "devices"), [("auto", ["wireguard", "vxlan"]), ("wireguard", ["wireguard"]), ("vxlan", ["vxlan"])]
)
def test_explain_shows_the_tunnel_and_no_key(invoke: Command, tunnel: str, devices: list[str]) -> None:
    status, out, _ = invoke(chrun, "--tunnel", tunnel, "--explain", "image.qcow2")
    assert status == 0
    assert re.findall(r"link add vx0 .* type (\w+)", out) == devices * 3
    keys = re.findall(r" private-key (\S+)| peer (\S+) endpoint", out)
    assert {key for pair in keys for key in pair if key} == (
        {"@private", *(f"PUBLIC-KEY-OF-cn00{host}" for host in (1, 2, 3))} if "wireguard" in devices else set()
    )
    assert ("is not encrypted or authenticated" in out) == (tunnel == "vxlan")
    assert ("else VXLAN" in out) == ("where a host can't make WireGuard" in out) == (tunnel == "auto")


@pytest.mark.usefixtures("folder")
def test_explain_shows_the_commit(invoke: Command, folder: Path) -> None:
    status, out, _ = invoke(chrun, "--ram", "300M", "--commit", "1", "--explain", "image.qcow2")
    assert status == 0
    found = re.search(r"^in the end, of guest 1:\n    (qemu-img convert .*)\n    (mv .*)\n", out, re.M)
    assert found is not None
    assert found[1].endswith("1.overlay.qcow2' -O qcow2 NEW")
    assert found[2] == f"mv NEW '{folder}/image.qcow2'"


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ChslurmError("node cn001: gone", hint="see out/"), 70, "x: node cn001: gone; see out/\n"),
        (KeyboardInterrupt(), 130, "x: interrupted\n"),
        (
            ZeroDivisionError("a\nb"),
            70,
            "x: unexpected error, please report it: ZeroDivisionError: a b; CHSLURM_DEBUG=1",
        ),
    ],
)
def test_errors_become_a_line_and_a_status(invoke: Command, error: BaseException, status: int, words: str) -> None:
    @click.command()
    def failing() -> None:
        raise error

    found, _, err = invoke(failing, name="x")
    assert found == status
    assert err.lstrip("\n").startswith(words)
    assert len(err.split("\n")) <= 3


def test_a_traceback_is_shown_on_demand(invoke: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise ZeroDivisionError

    monkeypatch.setenv("CHSLURM_DEBUG", "1")
    assert "Traceback" in invoke(failing)[2]


def test_the_status_of_a_story_is_the_commands(invoke: Command) -> None:
    @click.command()
    def seven() -> int:
        return 7

    assert invoke(seven)[0] == 7


# -- progress ---------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def tell(progress: Progress) -> None:
    progress.note("image: [red]x\nuser: y\n")
    progress.update({"booting": 2, "ready": 0}, 0, 2)
    progress.update({"booting": 1, "ready": 1}, 1, 2)
    progress.update({"ready": 2}, 2, 2)


def test_a_batch_log_gets_timed_lines() -> None:
    log = io.StringIO()
    with start_progress(log) as progress:
        tell(progress)
    lines = log.getvalue().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d: ", line) for line in lines)
    assert [line[21:] for line in lines] == [
        "image: [red]x",
        "user: y",
        "0 of 2 guests ready (2 booting)",
        "2 of 2 guests ready (2 ready)",
    ]


def test_a_terminal_gets_a_live_line() -> None:
    terminal = Terminal()
    with start_progress(terminal) as progress:
        tell(progress)
    assert "image: [red]x\n" in terminal.getvalue()
    assert "2/2 ready" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


def test_a_log_that_can_not_be_written_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", closefd=True, buffering=1) as log, start_progress(log) as progress:
        tell(progress)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)


@pytest.mark.parametrize("words", [[], ["image"]])
def test_a_group_without_a_command_shows_its_help(words: list[str]) -> None:
    argv = [sys.executable, "-m", "chslurm.cli.main", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("Usage: chslurm")
    assert "\nCommands:\n" in done.stderr


def test_oneguest_takes_its_image_first() -> None:
    context = oneguest.make_context("oneguest", ["image.qcow2", "--job", "x", "--", "a", "-b"])
    assert (context.params["image"], context.params["arguments"]) == ("image.qcow2", ("a", "-b"))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nothing.qcow2", "image '/.*nothing.qcow2': No such file or directory"),
        ("--without=ip6 image.qcow2", "--without: 'ip6' is not a valid Family; use some of inet, netdev, bridge"),
        ("--network=site image.qcow2", "--network site: root has made no network for guests here"),
        ("-n 0 image.qcow2", "-n '0': out of range"),
    ],
)
def test_a_check_of_the_network_that_can_not_begin(invoke: Command, words: str, message: str) -> None:
    status, output, error = invoke(chslurm, "net", "check", *words.split(), name="chslurm")
    assert (status, output, error.count("\n")) == (64, "", 1)
    assert re.match(f"chslurm: {message}", error), error
