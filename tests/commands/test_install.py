# SPDX-License-Identifier: Apache-2.0
"""`oneguest` by hand and `chslurm image`: what is refused before anything is started, and what is seen of an image."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from kept import Kept, make_kept, run
from media import make_media

import chslurm.install
from chslurm.cli.entry import run_command
from chslurm.cli.main import chslurm as umbrella
from chslurm.cli.oneguest import oneguest
from chslurm.plan import Plan, User

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Return a function that runs a command in an empty folder, as an ordinary user: (status, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for place in ("chslurm.host.place.read_user", "chslurm.install.read_user"):
        monkeypatch.setattr(place, lambda: User("user", 1000, 1000, ()))

    def call(command: click.Command, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["x", *words])
        status = run_command(command, command.name or "")
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with media, an empty image, and traps."""
    (tmp_path / "good.iso").write_bytes(make_media())
    (tmp_path / "zeros.iso").write_bytes(bytes(40000))
    (tmp_path / "text").write_text("hello\n")
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "empty.qcow2", "64M")
    run("cp", tmp_path / "empty.qcow2", tmp_path / "full.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 64k", tmp_path / "full.qcow2")
    return tmp_path


# -- oneguest ---------------------------------------------------------------------------------------------------------


def test_help_shows_what_is_for_people(invoke: Command) -> None:
    status, text, _ = invoke(oneguest, "--help")
    assert status == 0
    assert "--boot ISO" in text
    for option in ("--cores", "--ram", "--dir", "--job", "--jobdir", "--commit", "--curses", "--vga", "--accel"):
        assert option in text
    for option in ("--plan", "--digest", "--my-size", "--nosync", "--xterm", " -n "):
        assert option not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Missing argument 'IMAGE'"),
        ("--plan x", "--plan is for the launcher"),
        ("--force empty.qcow2", "--force belongs to --boot"),
        ("none.qcow2", "image '.*none.qcow2': No such file"),
        ("--boot none.iso empty.qcow2", "--boot 'none.iso': No such file"),
        ("--boot . empty.qcow2", "--boot '.': not a regular file"),
        ("--boot text empty.qcow2", "--boot 'text': not an ISO 9660 file system; give the ISO file"),
        ("--boot zeros.iso empty.qcow2", "--boot 'zeros.iso': not an ISO 9660"),
        ("--boot good.iso none.qcow2", "No such file or directory; chslurm image create none.qcow2 makes"),
        ("--boot good.iso text", "image 'text': not a disk image"),
        ("--boot good.iso full.qcow2", "image 'full.qcow2': it is not empty; --force"),
        (
            "--boot good.iso --vga empty.qcow2",
            "can't open windows for --vga: neither DISPLAY nor WAYLAND_DISPLAY is set",
        ),
        ("--boot good.iso --jobdir x empty.qcow2", "--jobdir is for guests, not for --boot"),
        ("--boot good.iso --cores 0 empty.qcow2", "--cores '0'"),
    ],
)
@pytest.mark.usefixtures("here")
def test_mistakes(invoke: Command, words: str, message: str) -> None:
    before = sorted(Path().rglob("*"))
    status, out, err = invoke(oneguest, *words.split())
    assert (status, out) == (64, ""), err
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err
    assert sorted(Path().rglob("*")) == before


def test_an_image_in_use_is_not_installed_into(invoke: Command, here: Path) -> None:
    argv = ["stdbuf", "-o0", "qemu-io", "-f", "qcow2", "-c", "read 0 512", "-c", "sleep 20000", "empty.qcow2"]
    with subprocess.Popen(argv, cwd=here, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        user.stdout.readline()
        status, _, err = invoke(oneguest, "--boot", "good.iso", "empty.qcow2")
        user.kill()
    assert (status, "guests or other programs use it" in err) == (64, True), err


def test_a_guest_by_hand_is_a_workstation_cluster_of_one(
    invoke: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    run("cp", here / "full.qcow2", here / "image.qcow2")
    status, out, err = invoke(oneguest, "--cores", "1", "--ram", "300M", "--commit", "0", "--dry-run", "image.qcow2")
    assert (status, err) == (0, "")
    plan = json.loads(out)
    assert (plan["mode"], len(plan["guests"]), plan["commit_guest"]) == ("workstation", 1, 0)
    assert plan["job"]["interactive"]
    assert plan["environment"] == {"http_proxy": "http://proxy:3128"}


def test_a_step_starts_as_ever() -> None:
    """The command line that the launcher's step has; the plan is not there."""
    argv = [sys.executable, "-P", "-m", "chslurm.cli.oneguest", "--plan", "none", "--cluster-id", "x", "--digest", "y"]
    code = "import sys, chslurm.host.sharedfiles as f; f._PATIENCE_S = 0; sys.argv = sys.argv[1:];"
    code += "import chslurm.cli.oneguest as o; o.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "oneguest", *argv[4:], "--host-number", "1"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 70
    assert json.loads(done.stdout)["kind"] == "node_failed"


def test_the_display_is_asked_of_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\nprintf 'Available display backend types:\\nnone\\nsdl\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert chslurm.install._choose_display(str(program)) == "sdl"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_told_to_end_gives_the_terminal_back(here: Path, number: signal.Signals) -> None:
    """QEMU makes it raw, and is killed."""
    program = here / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\nstty raw -echo && echo raw && exec sleep 60\n")
    program.chmod(0o755)
    code = "import sys, chslurm.install as i, chslurm.cli.oneguest as o; i.read_user = lambda: None;"
    code += "sys.argv = sys.argv[1:]; o.main()"
    argv = [sys.executable, "-c", code, "oneguest", "--boot", "good.iso", "--accel", "tcg", "empty.qcow2"]
    environment = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    with subprocess.Popen(argv, cwd=here, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        text = b""
        while b"raw" not in text:
            text += os.read(ours, 4096)
        assert termios.tcgetattr(theirs) != before
        assert b"services on this host's loopback too (at 10.0.2.2)" in text
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


# -- chslurm image ----------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, plan_of: Callable[..., Plan]) -> Kept:
    return make_kept(tmp_path, plan_of, boot=True)


def test_info_and_history(invoke: Command, kept: Kept) -> None:
    status, out, err = invoke(umbrella, "image", "info", "image.img")
    assert (status, err) == (0, "")
    assert re.search(r"^image: +/.*/image\.img \(qcow2\)$", out, re.M)
    assert re.search(r"^size: +273 MiB, of which the file takes \d+ MiB$", out, re.M)
    assert re.search(r"^root: +partition 1 'root', 8 MiB at 257 MiB$", out, re.M)
    assert re.search(r"^kernel: +6\.1-fake$", out, re.M)
    assert re.search(r"^used by: +nobody$", out, re.M)
    assert re.search(r"^history: +empty$", out, re.M)
    assert invoke(umbrella, "image", "commit", "charlie")[0] == 0
    look = json.loads(invoke(umbrella, "image", "info", "--json", "image.img")[1])
    assert look["virtual_bytes"] == 273 << 20
    assert look["layers"][0]["inode"] == kept.image.stat().st_ino
    assert [entry["deed"] for entry in look["history"]] == ["committed"]
    _, out, _ = invoke(umbrella, "image", "history", "image.img")
    assert re.fullmatch(r"\S+, committed, by .* on .*, from guest 0 of /.*/charlie, to /.*, kernel 6\.1-fake\n", out)


@pytest.mark.usefixtures("here")
def test_an_image_without_a_boot_bundle_says_so(invoke: Command) -> None:
    _, out, _ = invoke(umbrella, "image", "history", "full.qcow2")
    assert out == "carries none: it has no boot bundle\n"
    assert re.search("^root: +no partition 1$", invoke(umbrella, "image", "info", "full.qcow2")[1], re.M)


@pytest.mark.usefixtures("here")
def test_who_uses_it_is_shown(invoke: Command) -> None:
    argv = ["stdbuf", "-o0", "qemu-io", "-f", "qcow2", "-c", "read 0 512", "-c", "sleep 20000", "full.qcow2"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        user.stdout.readline()
        _, out, _ = invoke(umbrella, "image", "info", "full.qcow2")
        user.kill()
    assert re.search(rf"^used by: +written to now: qemu-io \(pid {user.pid}\)$", out, re.M), out


def test_create(invoke: Command, tmp_path: Path) -> None:
    assert invoke(umbrella, "image", "create", "new.qcow2", "--size", "64M")[:2] == (
        0,
        "new.qcow2: an empty disk of 64 MiB (qcow2)\n",
    )
    first = (tmp_path / "new.qcow2").stat().st_ino
    status, _, err = invoke(umbrella, "image", "create", "new.qcow2")
    assert (status, err) == (64, "chslurm: image 'new.qcow2': it exists; use --force to replace it\n")
    assert (tmp_path / "new.qcow2").stat().st_ino == first
    assert invoke(umbrella, "image", "create", "new.qcow2", "--force", "--format=raw", "--size=1M")[0] == 0
    assert (tmp_path / "new.qcow2").read_bytes() == bytes(1 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["new.qcow2"]


def test_create_writes_through_no_link_of_others(invoke: Command, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / f".chslurm-create.{os.getpid()}").symlink_to("precious")
    assert invoke(umbrella, "image", "create", "new.qcow2", "--size", "64M")[0] == 0
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "new.qcow2").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_create_says_what_may_not_be_read(invoke: Command, tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o600)
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(0o755)
    os.seteuid(12345)
    try:
        status, _, err = invoke(umbrella, "image", "create", "secret", "--force")
    finally:
        os.seteuid(0)
    assert (status, err) == (64, "chslurm: image 'secret': Permission denied\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("create sub/x", "image 'sub/x': no folder 'sub'; make it first"),
        ("create x --size 0", "--size '0'"),
        ("create x --format vmdk", "--format 'vmdk': unknown; use one of qcow2, raw"),
        ("create dir --force", "it is not a file"),
        ("info none", "image 'none': No such file"),
        ("history text", "not a disk image"),
        ("commit none", "job directory '.*/none': No such file"),
        ("commit dir", "not one of yours that this tool made"),
        ("commit dir x", "ID 'x': not a whole number"),
    ],
)
def test_mistakes_about_images(invoke: Command, here: Path, words: str, message: str) -> None:
    (here / "dir").mkdir()
    status, _, err = invoke(umbrella, "image", *words.split())
    assert status == 64, err
    assert re.search(message, err), err
    assert len(err.splitlines()) == 1
