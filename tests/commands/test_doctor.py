# SPDX-License-Identifier: Apache-2.0
"""The doctor as users meet it: its table, its exit statuses, nodes that answer and nodes that do not."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from chslurm import doctor as story
from chslurm.checkup import Answer, Finding, Needs, Row, Topic, Verdict, encode_answer
from chslurm.cli.entry import run_command
from chslurm.cli.main import chslurm
from chslurm.host import doctorstep
from chslurm.host.bounded import run_bounded
from chslurm.host.trials import Patient, try_qemu

# pytest's workers have threads, which Python since 3.12 warns of; the doctor has none
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

FAKES = Path(__file__).parent.parent / "fakes"
JOB = {
    "SLURM_JOB_ID": "42",
    "SLURM_JOB_NODELIST": "cn[001-003]",
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_JOB_CPUS_PER_NODE": "4(x3)",
    "SLURM_MEM_PER_NODE": "2000",
}
QEMU = Row(Topic.QEMU, "QEMU 7.2 (/usr/bin/qemu) runs a guest, sandboxed")
TUN = Row(Topic.TUN, "can't make a TAP device: Permission denied", Verdict.FAILED, "sudo chmod 666 /dev/net/tun")

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Return a function that runs `chslurm doctor`."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["chslurm", "doctor", *words])
        command: click.Command = chslurm
        return run_command(command, "chslurm"), *capsys.readouterr()

    return run


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Be in job 42; return a function that sets what a stand-in for srun does, in shell."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{FAKES / 'slurm'}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "scontrol.log"))
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)

    def set_script(script: str) -> None:
        (programs / "srun").write_text(
            f'#!/bin/sh\ncase "$*" in --version) echo slurm 23.11.4; exit ;; esac\n{script}\n'
        )
        (programs / "srun").chmod(0o755)

    return set_script


def answers(node: str, *rows: Row, at_s: float = 0.0) -> str:
    """Shell that prints what a node says."""
    lines = [encode_answer(Answer(node, row)) for row in rows]
    lines.append(encode_answer(Answer(node, row_ct=len(rows), unix_s=time.time() + at_s)))
    return "".join(f"cat <<'END'\n{line.decode()}END\n" for line in lines)


def test_here(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "check_here", lambda *_: [Finding(QEMU), Finding(TUN)])
    assert invoke() == (
        1,
        "WHAT         VERDICT  FOUND                                             REMEDY\n"
        "QEMU         ok       QEMU 7.2 (/usr/bin/qemu) runs a guest, sandboxed\n"
        "TAP devices  failed   can't make a TAP device: Permission denied        sudo chmod 666 /dev/net/tun\n"
        "2 rows: 1 ok, 1 failed\n",
        "",
    )
    monkeypatch.setattr(story, "check_here", lambda *_: [Finding(QEMU)])
    status, text, _ = invoke("--json")
    assert (status, json.loads(text)) == (
        0,
        [{"topic": "QEMU", "found": QEMU.found, "verdict": "ok", "remedy": "", "nodes": ""}],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes"], "chslurm: --nodes: not in a SLURM job; salloc -N2 chslurm doctor --nodes\n"),
        (["--no"], "chslurm: No such option '--no'. Did you mean one of: '--nodes'?; see chslurm doctor --help\n"),
    ],
)
def test_bad_usage(invoke: Invoke, words: list[str], message: str) -> None:
    status, _, error = invoke(*words)
    assert status == 64
    assert error == message or (words == ["--no"] and error.startswith("chslurm: No such option"))


def test_nodes_that_differ_are_named(invoke: Invoke, say: Callable[[str], None]) -> None:
    say(
        "echo words of somebody else\n"
        + answers("cn001", QEMU)
        + answers("cn002", QEMU, TUN, at_s=-60)
        + answers("cn003", QEMU, TUN)
        + answers("cn009", TUN)
    )
    status, text, error = invoke("--nodes")
    assert (status, error) == (1, "")
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    assert lines[0][0] == "NODES"
    assert [line[0] for line in lines if "QEMU 7.2" in line[1]] == ["all"]
    assert [line[0] for line in lines if "TAP devices" in line[1]] == ["cn[002-003]"]
    (clock,) = [line[1] for line in lines if line[1].startswith("clock")]
    assert "s ahead of cn002" in clock


def test_a_node_that_does_not_answer_is_a_failed_row(
    invoke: Invoke, say: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "_STEP_S", 1.0)
    say(answers("cn001", QEMU) + answers("cn003", QEMU) + "exec sleep 60")
    began_s = time.monotonic()
    status, text, _ = invoke("--nodes", "--json")
    assert time.monotonic() - began_s < 15
    (silent,) = [row for row in json.loads(text) if row["found"] == "does not answer"]
    assert (status, silent["nodes"], silent["verdict"]) == (1, "cn002", "failed")


def test_a_row_that_was_torn_on_its_way_is_told(invoke: Invoke, say: Callable[[str], None]) -> None:
    torn = answers("cn002", QEMU, TUN).replace('{"node":"cn002","row":{"topic":"TAP', '"cn001"{"topic":"TAP')
    say(answers("cn001", QEMU, TUN) + torn + answers("cn003", QEMU, TUN))
    _, text, _ = invoke("--nodes", "--json")
    (lost,) = [row for row in json.loads(text) if row["found"] == "1 rows were lost on their way here"]
    assert (lost["nodes"], lost["verdict"]) == ("cn002", "not tried")


def test_a_step_that_does_not_start(invoke: Invoke, say: Callable[[str], None]) -> None:
    say("echo 'srun: error: Unable to create step for job 42: Job/step already completing' >&2; exit 1")
    error = "can't look at the nodes: srun: error: Unable to create step for job 42: Job/step already completing"
    status, text, told = invoke("--nodes")
    assert (status, text) == (70, "")
    assert told == f"chslurm: {error}; try srun --overlap hostname in the job\n"


def test_a_node_that_talks_on_is_not_listened_to(say: Callable[[str], None]) -> None:
    say(answers("cn001", *[Row(Topic.QEMU, str(number)) for number in range(500)]) + "exec yes")
    heard = doctorstep.ask_nodes(["srun"], ["cn001"], 20.0)
    assert len(heard.rows["cn001"]) == 2 * len(Topic)


def test_work_that_hangs_or_breaks_holds_nobody_up() -> None:
    def hang() -> bytes:
        time.sleep(60)
        return b"late"

    def fail() -> bytes:
        raise ZeroDivisionError

    began_s = time.monotonic()
    done = run_bounded({"hang": hang, "fail": fail, "well": lambda: b"x" * 200_000}, 1.0)
    assert time.monotonic() - began_s < 10
    assert done == {"hang": None, "fail": b"", "well": b"x" * 200_000}


def test_what_hangs_is_told_and_what_breaks_was_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(_: Patient) -> list[Row]:
        time.sleep(60)
        return []

    def fail(_: Patient) -> list[Row]:
        raise ZeroDivisionError

    trials = (
        ((Topic.QEMU, Topic.PASSTHROUGH), hang),
        ((Topic.TUN,), fail),
        ((Topic.KVM,), lambda _: [Row(Topic.KVM, "well")]),
    )
    monkeypatch.setattr(story, "_TRIALS", trials)
    monkeypatch.setattr(story, "_PATIENCE_S", 1.0)
    patient = Patient(Needs(), None, Path("/"), Path("/"))
    rows = story.check_host(patient, frozenset(Topic) - set(story._OF_SLURM), {})
    assert [(row.topic, row.verdict) for row in rows] == [
        (Topic.QEMU, Verdict.FAILED),
        (Topic.PASSTHROUGH, Verdict.FAILED),
        (Topic.TUN, Verdict.NOT_TRIED),
        (Topic.KVM, Verdict.OK),
    ]
    assert rows[0].found == "no answer in 1 s"


def test_no_qemu_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    first, second = try_qemu(Patient(Needs(), None, Path("/"), Path("/")))
    assert first.verdict is Verdict.FAILED
    assert first.found.startswith("can't find QEMU on this host: neither qemu-system-x86_64 nor")
    assert second.verdict is Verdict.NOT_TRIED
