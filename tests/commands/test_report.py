# SPDX-License-Identifier: Apache-2.0
"""`chslurm report` and what a launcher leaves of it, from the files of job directories."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from story import Story

from chslurm.account import describe_verdict
from chslurm.chart import MOST_PICTURED, Text, choose_rows, draw_chart
from chslurm.cli.entry import run_command
from chslurm.cli.main import chslurm
from chslurm.host.lock import hold_lock
from chslurm.host.staging import start_job_dir
from chslurm.jobdir import JobDir
from chslurm.plan import Plan
from chslurm.report import make_summary
from chslurm.retell import leave_report, read_account

Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Outcome]:
    """Return a function that runs `chslurm report ...`: (exit status, standard output, standard error)."""

    def invoke(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["chslurm", "report", *words])
        status = run_command(chslurm, "chslurm")
        out, err = capsysbinary.readouterr()
        return status, out.decode(errors="replace"), err.decode()

    return invoke


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_STATE_HOME", "CHSLURM_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def story(plan_of: Callable[..., Plan]) -> Story:
    return Story(plan_of(2))


def lose_guest(story: Story) -> None:
    story.boot()
    story.add(12, "guest_gone", 2, 1, status=1, text="QEMU was killed by SIGKILL")
    story.add(13, "guest_gone", 1, 0, text="shut down")
    for host in (1, 2):
        story.add(14, "node_done", host)


def test_without_options_all_is_where_the_launcher_leaves_it(run: Run, story: Story, cwd: Path) -> None:
    story.boot()
    story.end()
    story.write(cwd / "c")
    assert run("c") == (0, f"report: {cwd}/c/report.html, also .json and .png\n", "")
    assert "chgu1 on cn002" in (cwd / "c" / "report.html").read_text()
    assert json.loads((cwd / "c" / "report.json").read_text())["guests"][1]["node"] == "cn002"
    assert (cwd / "c" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {path.stat().st_mode & 0o777 for path in (cwd / "c").glob("report.*")} == {0o600}
    assert list((cwd / "c").glob(".report*")) == []


def test_a_cluster_can_be_named_as_for_other_commands(run: Run, story: Story, cwd: Path) -> None:
    story.write(cwd / "c")
    assert run("-c", "c") == run("c") == (0, f"report: {cwd}/c/report.html, also .json and .png\n", "")
    assert run("-c", "c", "c") == (
        64,
        "",
        "chslurm: JOBDIR and --cluster: both name a cluster; leave out one of them\n",
    )


def test_in_a_job_directory_it_need_not_be_named(
    run: Run, story: Story, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.write(cwd / "c")
    monkeypatch.chdir(cwd / "c" / "out")
    assert run()[0] == 0
    assert (cwd / "c" / "report.html").exists()


def test_each_form_goes_where_it_is_wanted(run: Run, story: Story, cwd: Path) -> None:
    story.boot()
    story.end()
    story.write(cwd / "c")
    status, out, errors = run("c", "--html", "p.html", "--png", "p.png", "--json", "-")
    assert (status, errors) == (0, f"report: {cwd}/p.html\nreport: {cwd}/p.png\n".replace(f"{cwd}/", ""))
    assert json.loads(out)["exit_status"] == 3
    assert (cwd / "p.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert (cwd / "p.png").read_bytes().startswith(b"\x89PNG")
    assert not (cwd / "c" / "report.html").exists()
    from PIL import Image

    with Image.open(cwd / "p.png") as picture:
        assert picture.size[0] == 2000
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
        assert picture.convert("RGB").getpixel((0, 0)) == (0xFF, 0xFF, 0xFF)
    assert {(0x00, 0x9E, 0x73), (0xE6, 0x9F, 0x00), (0xF5, 0xF6, 0xF8)} <= colours  # services, job, a phase


def lose_pillow(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "PIL", None)
    return "import of PIL halted; None in sys.modules"


def age_pillow(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make it what Debian 12 has, as far as we are concerned."""
    from PIL import ImageFont

    def load_default() -> None: ...

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    monkeypatch.setattr("PIL.__version__", "9.4.0")
    return "Pillow 9.4.0 is too old"


@pytest.mark.parametrize("spoil", [lose_pillow, age_pillow])
def test_without_a_fit_pillow_there_is_no_picture(
    run: Run, story: Story, cwd: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], str]
) -> None:
    lose_guest(story)
    story.write(cwd / "c")
    why = f"can't make a picture: {spoil(monkeypatch)}"
    why += "; have Pillow 10.1 or newer beside chslurm: pip install 'pillow>=10.1'"
    assert run("c", "--png", "p.png", "--json", "p.json") == (70, "", f"report: p.json\nchslurm: {why}\n")
    assert run("c") == (70, f"report: {cwd}/c/report.html, also .json\n", f"chslurm: {why}\n")
    for path in (cwd / "c").glob("report.*"):
        path.unlink()
    assert leave(story) == ["report: ./c/report.html, also .json", f"warning: {why}"]
    assert sorted(path.name for path in (cwd / "c").glob("report.*")) == ["report.html", "report.json"]


def test_a_picture_says_of_whom_it_is_and_shows_those_that_matter(plan_of: Callable[..., Plan], cwd: Path) -> None:
    story = Story(plan_of(250, 2))
    story.boot()
    story.add(12, "guest_gone", 200, 399, status=1, text="QEMU was killed by SIGKILL")
    story.write(cwd / "c")
    account = read_account(story.plan, running=False)
    drawing = draw_chart(account, choose_rows(account.guests, MOST_PICTURED), headed=True)
    words = [shape.text for shape in drawing.shapes if isinstance(shape, Text)]
    heading = [f"c: {describe_verdict(account)}", "SLURM job 42, 2026-01-02 03:04:05 UTC", "120 of 500 guests shown"]
    assert words[:3] == heading
    assert sum(word.startswith("chgu") for word in words) == 120
    assert "chgu399" in " ".join(words)


def test_of_one_that_failed_the_ends_of_files_are_quoted(run: Run, story: Story, cwd: Path) -> None:
    lose_guest(story)
    story.write(cwd / "c")
    out = cwd / "c" / "out"
    (out / "1_console.out").write_bytes(b"early\n" * 5000 + b"\x1b[2J\x07<b>last\xff words\n" + b"y" * 100000)
    (out / "1_job.err").write_bytes(b"z" * 1000 + b"\n")
    (out / "0_console.out").write_text("not to blame")
    (out / "step.out").symlink_to("/etc/passwd")
    found = json.loads(run("c", "--json", "-")[1])
    excerpts = {excerpt["file"]: excerpt for excerpt in found["excerpts"]}
    assert list(excerpts) == ["out/1_console.out", "out/1_job.err"]
    assert excerpts["out/1_console.out"]["cut"]
    assert len(excerpts["out/1_console.out"]["text"]) < 20000
    assert excerpts["out/1_job.err"] == {"file": "out/1_job.err", "text": "z" * 300 + "…", "cut": False}
    (out / "1_console.out").write_bytes(b"\x1b[2J\x07<b>last\xff words\n")
    assert run("c")[0] == 0
    assert "<pre>^G&lt;b&gt;last\\xff words</pre>" in (cwd / "c" / "report.html").read_text()
    (out / "1_console.out").write_bytes(b"begun anew\n")
    for part, said in (("first", b"early\n"), ("before", b"x" * 20000 + b"\nlate\n")):
        (out / f"1_console.{part}.out").write_bytes(said)
        assert run("c")[0] == 0
        assert f"{said[-6:].decode()}begun anew</pre>" in (cwd / "c" / "report.html").read_text()


def test_one_that_runs_is_told_so_far(run: Run, story: Story, cwd: Path) -> None:
    story.boot()
    story.write(cwd / "c")
    job_dir = JobDir(cwd / "c")
    with hold_lock(job_dir.lock, job_dir.lease(story.plan.cluster_id), "c"):
        found = json.loads(run("c", "--json", "-")[1])
    assert (found["running"], found["state"], found["exit_status"]) == (True, "running", None)
    assert found["elapsed_s"] > 1e6  # it began long ago
    found = json.loads(run("c", "--json", "-")[1])
    assert (found["running"], found["state"], found["text"]) == (False, "died", "its head ended without a last word")


@pytest.mark.parametrize("file", ["events.jsonl", "summary.json"])
def test_what_is_damaged_or_gone_is_passed_over(run: Run, story: Story, cwd: Path, file: str) -> None:
    story.boot()
    story.end()
    story.write(cwd / "c")
    (cwd / "c" / "run" / file).write_bytes(b'{"unix_s": 1e400}\n\xff\n{"kind')
    assert run("c")[0] == 0
    (cwd / "c" / "run" / file).unlink()
    assert run("c")[0] == 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "run" / "plan.json").write_text("{"), "can't read the plan: "),
        (lambda root: (root / "run" / "plan.json").unlink(), "its cluster is only just being started"),
        (lambda root: (root / ".chslurm").unlink(), "not one of yours that this tool made"),
    ],
)
def test_what_is_no_job_directory_is_one_line(
    run: Run, story: Story, cwd: Path, damage: Callable[[Path], None], words: str
) -> None:
    story.write(cwd / "c")
    damage(cwd / "c")
    status, out, errors = run("./c")
    assert (status, out, errors.count("\n")) == (64, "", 1)
    assert errors.startswith(f"chslurm: job directory '{cwd}/c': ")
    assert words in errors


def test_what_cannot_be_written_is_one_line(run: Run, story: Story, cwd: Path) -> None:
    story.write(cwd / "c")
    assert run("c", "--html", "no/where") == (70, "", "chslurm: can't write no/where: No such file or directory\n")
    (cwd / "c" / "report.html").mkdir()
    status, _, errors = run("c")
    assert status == 70
    assert errors == f"chslurm: can't make {cwd}/c/report.html: Is a directory; choose a place with --html\n"
    assert {path.name for path in (cwd / "c").glob("report.*")} == {"report.html", "report.json", "report.png"}


# -- the launcher's ---------------------------------------------------------------------------------------------------


def leave(story: Story, *, wanted: bool = True) -> list[str]:
    return leave_report(story.plan, make_summary(story.plan, story.supervisor, 30.0), wanted=wanted)


def test_the_launcher_leaves_all_and_says_where(story: Story, cwd: Path) -> None:
    lose_guest(story)
    story.write(cwd / "c")
    assert leave(story, wanted=False) == []
    assert list((cwd / "c").glob("report.*")) == []
    assert leave(story) == ["report: ./c/report.html, also .json and .png"]
    assert json.loads((cwd / "c" / "report.json").read_text())["exit_status"] == 70
    assert "lost, exit status 70" in (cwd / "c" / "report.html").read_text()


def test_a_report_that_fails_is_a_warning(story: Story, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story.write(cwd / "c")
    (cwd / "c" / "report.html").mkdir()
    (cwd / "c" / "report.json").mkdir()
    page, account = (f"warning: can't make ./c/report.{suffix}: Is a directory" for suffix in ("html", "json"))
    assert leave(story) == ["report: ./c/report.png", page, account]
    (cwd / "c" / "report.html").rmdir()
    assert leave(story) == ["report: ./c/report.html, also .png", account]
    (cwd / "c" / "report.json").rmdir()

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of whatever\nkind")

    with monkeypatch.context() as patch:
        patch.setattr("chslurm.host.picture.make_png", fail)
        warning = "warning: can't make ./c/report.png: ZeroDivisionError: of whatever kind"
        assert leave(story) == ["report: ./c/report.html, also .json", warning]
    monkeypatch.setattr("chslurm.retell.read_account", fail)
    assert leave(story) == ["warning: can't make ./c/report.html: ZeroDivisionError: of whatever kind"]
    (cwd / "c" / "run" / "events.jsonl").unlink()
    assert leave(story)[0].startswith("warning: can't make ")


def test_a_journal_that_takes_long_to_read_is_left_alone(story: Story, cwd: Path) -> None:
    story.write(cwd / "c")
    with (cwd / "c" / "run" / "events.jsonl").open("ab") as file:
        file.truncate(65 << 20)
    assert leave(story) == [f"report: left out, as so much has happened; chslurm report {cwd}/c makes it"]


def test_a_link_in_place_of_a_file_is_not_followed(story: Story, cwd: Path) -> None:
    story.write(cwd / "c")
    (cwd / "mine").write_text("precious")
    for path in JobDir(cwd / "c").reports:
        Path(path).symlink_to(cwd / "mine")
    assert leave(story) == ["report: ./c/report.html, also .json and .png"]
    assert (cwd / "mine").read_text() == "precious"


def test_a_directory_that_is_used_again_has_nothing_of_an_earlier_report(story: Story, cwd: Path) -> None:
    story.write(cwd / "c")
    leave(story)
    for name in ("notes.html", "report.txt", "report.png.mine"):
        (cwd / "c" / name).write_text("mine")
    script = cwd / "job.sh"
    script.write_text("#!/bin/sh\n")
    job = dataclasses.replace(story.plan.job, script=str(script))
    with start_job_dir(dataclasses.replace(story.plan, job=job), reuse=True):
        assert {path.name for path in (cwd / "c").iterdir() if path.is_file()} == {
            *(".chslurm", "ssh_config"),
            *("notes.html", "report.txt", "report.png.mine"),
        }


@pytest.mark.quick
def test_a_hundred_guests_take_no_time_to_speak_of(plan_of: Callable[..., Plan], cwd: Path) -> None:
    story = Story(plan_of(100))
    story.boot()
    pulse = b'{"unix_s":1767323060.0,"kind":"pulse","host":7}\n'
    story.lines += [pulse] * (100 * 720)  # of an hour
    story.end()
    story.write(cwd / "c")
    leave(story)
    start_s = time.process_time()
    assert leave(story) == ["report: ./c/report.html, also .json and .png"]
    assert time.process_time() - start_s < 2.5  # it is 0.3 s; this machine may be slow
    assert read_account(story.plan, running=False).exit_status == 3
