# SPDX-License-Identifier: Apache-2.0
"""The doctor as users meet it: its table, its exit statuses, nodes that answer and nodes that do not."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from chslurm import aftermath
from chslurm import doctor as story
from chslurm.checkup import Answer, Finding, Needs, Row, Topic, Verdict, encode_answer
from chslurm.cli.entry import run_command
from chslurm.cli.main import chslurm
from chslurm.errors import ChslurmError
from chslurm.host import doctorstep, nettrials, slurmtrials, trialguest, trials
from chslurm.host.bounded import run_bounded
from chslurm.host.trials import Patient, try_kvm, try_qemu, try_tmp_space
from chslurm.kinds import Accelerator, Mode, NetworkKind, TunnelKind
from chslurm.plan import Plan
from chslurm.siteconfig import SITE_FILE_VARIABLE

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


def test_srun_that_stays_is_told_to_end_before_it_is_killed(
    say: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctorstep, "_END_S", 1.0)
    say(f"trap 'echo told >{tmp_path}/end; exit' TERM\n{answers('cn001', QEMU)}\nsleep 60 >/dev/null 2>&1 & wait")
    assert doctorstep.ask_nodes(["srun"], ["cn001"], 20.0).rows == {"cn001": [QEMU]}
    assert (tmp_path / "end").read_text() == "told\n"


def test_a_node_says_all_twice(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lines of several nodes that come at once are torn, and without its last one a node would not have answered."""
    seen: list[Patient] = []
    said: list[Answer] = []

    def check_host(patient: Patient, *_: object) -> list[Row]:
        seen.append(patient)
        return [QEMU, TUN]

    monkeypatch.setattr(story, "check_host", check_host)
    monkeypatch.setattr(story, "_say", said.append)
    wanted = Needs(Mode.WORKSTATION, 1, 3, accelerator=Accelerator.KVM, tunnel=TunnelKind.VXLAN)
    task = story._make_task(Patient(wanted, Path("/i"), tmp_path))
    assert invoke(*task[task.index("doctor") + 1 :])[0] == 0
    assert [(answer.row, answer.row_ct) for answer in said] == [(QEMU, 0), (TUN, 0)] * 2 + [(None, 2)] * 2
    (patient,) = seen
    assert (patient.needs, patient.image, patient.job_base, patient.tmp_dir) == (wanted, Path("/i"), tmp_path, None)


# -- what a launch would ask for --------------------------------------------------------------------------------------


def test_settings_count_as_for_a_launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {"image": None, "jobbase": None, "tmp_dir": "x"}
    variables = {"CHSLURM_ACCEL": "kvm", "CHSLURM_GUESTS": "4", "CHSLURM_RAM": "5G", "CHSLURM_NETWORK": "rootless"}
    here = story.make_patient(asked, tmp_path, variables)
    assert (here.image, here.job_base, here.tmp_dir, here.refusal) == (None, tmp_path, tmp_path / "x", None)
    assert here.needs == Needs(guest_ct=4, ram_mib=5120, accelerator=Accelerator.KVM, network=NetworkKind.ROOTLESS)
    in_job = story.make_patient(asked, tmp_path, {**variables, **JOB, "CHSLURM_TUNNEL": "vxlan"}).needs
    assert (in_job.mode, in_job.host_ct, in_job.guest_ct, in_job.tunnel) == (Mode.CLUSTER, 3, 2, TunnelKind.VXLAN)
    assert in_job.ram_mib == Needs().ram_mib  # SLURM decides
    monkeypatch.setattr(nettrials, "has_room", lambda *_: True)
    assert not story._place(here, {}).needs.site
    assert story._place(Patient(Needs(), None, tmp_path), {}).needs.site


@pytest.mark.parametrize(
    ("limits", "setting", "found"),
    [
        ("workstations = []", "", "can't run guests on .* outside of a SLURM job: the site does not allow it"),
        ('image_folders = ["/nowhere"]', "", "can't use image '/dev/null': it is not in a folder that the site allows"),
        ("reserved_cores = 4096", "", "can't use node .*: of its .* the site reserves 4096"),
        ('networks = ["rootless"]', "site", "can't use --network site: the site does not allow it"),
        ("guests_per_node = 9", "", "kept"),
    ],
)
def test_what_a_launch_refuses_is_a_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limits: str, setting: str, found: str
) -> None:
    (tmp_path / "config.toml").write_text(f"[limits]\n{limits}\n")
    environment = {SITE_FILE_VARIABLE: str(tmp_path / "config.toml"), "CHSLURM_NETWORK": setting}
    for name in ("SLURM_JOB_ID", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    patient = story.make_patient({"image": "/dev/null", "jobbase": None, "tmp_dir": None}, tmp_path, environment)
    (row,) = trials.try_allowed(patient)
    assert (row.topic, row.verdict) == (Topic.ALLOWED, Verdict.OK if found == "kept" else Verdict.FAILED)
    assert re.match(found, row.found), row
    assert str(tmp_path / "config.toml") in row.found


def test_temporary_disks_are_tried_where_a_launch_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the job directory, unless that is across the network; a TMPDIR that is no whole path does not count."""

    def find(tmp_dir: Path | None = None) -> str:
        (row,) = try_tmp_space(Patient(Needs(), None, tmp_path / "base", tmp_dir))
        return row.found.split(" ")[0].rstrip(":")

    monkeypatch.setenv("TMPDIR", "/nowhere")
    assert find() == str(tmp_path)
    assert find(tmp_path / "x") == str(tmp_path / "x")
    monkeypatch.setattr(trials, "read_file_system", lambda _: "nfs4")
    assert find() == "/nowhere"
    monkeypatch.setenv("TMPDIR", "here")
    assert find() == "/tmp"


def test_a_folder_that_nobody_may_look_into_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)  # as of a folder that can't be searched, for who is not root
    (row,) = trials.try_job_space(Patient(Needs(), None, tmp_path / "base"))
    assert (row.topic, row.verdict) == (Topic.JOB_SPACE, Verdict.OK)
    monkeypatch.setattr(trials, "read_file_system", refuse)
    (row,) = trials.try_job_space(Patient(Needs(), None, tmp_path / "base"))
    assert (row.verdict, row.found) == (Verdict.FAILED, f"{tmp_path}: Permission denied")


def test_our_address_takes_no_default_route(monkeypatch: pytest.MonkeyPatch, plan_of: Callable[..., Plan]) -> None:
    """It is that toward another host of the job, or any that others could reach."""
    asked: list[str] = []

    def own_address(toward: str) -> str:
        asked.append(toward)
        if toward == "unknown":
            raise ChslurmError(toward) from socket.gaierror()
        if toward == "far":
            raise ChslurmError("can't reach far: Network is unreachable") from OSError()
        return "10.1.0.1"

    monkeypatch.setattr(nettrials, "own_address", own_address)
    monkeypatch.setattr(nettrials, "find_global_address", lambda: "10.2.0.1")
    assert [nettrials._find_address(other) for other in ("cn002", "", "unknown")] == [
        "10.1.0.1",
        "10.2.0.1",
        "10.2.0.1",
    ]
    assert asked == ["cn002", "unknown"]
    with pytest.raises(ChslurmError, match="can't reach far"):
        nettrials._find_address("far")
    monkeypatch.setattr(nettrials, "find_global_address", lambda: "")
    with pytest.raises(ChslurmError, match="no address by IPv4"):
        nettrials._find_address("")
    monkeypatch.delenv("SLURM_LAUNCH_NODE_IPADDR", raising=False)
    for own, other in (("cn001", "cn002"), ("cn003", "cn001")):
        assert story._place(Patient(Needs(), None, Path("/")), {**JOB, "SLURMD_NODENAME": own}).other == other
        assert aftermath._make_patient(plan_of(3), Needs(), own).other == other


# -- what hangs, breaks, or is not there ------------------------------------------------------------------------------


def test_whoever_waits_says_so_before_nobody_listens_any_more(
    say: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slurmtrials._STEP_S < story._PATIENCE_S
    assert slurmtrials._ANSWERS_S + slurmtrials._PING_S / 2 < story._PATIENCE_S
    assert 2 * trialguest._TIMEOUT_S + 2 < story._PATIENCE_S
    assert 2 * nettrials._LINK_S < story._PATIENCE_S / 2
    say("exec sleep 60")
    monkeypatch.setattr(slurmtrials, "_STEP_S", 0.5)
    monkeypatch.setattr(story, "_PATIENCE_S", 6.0)
    rows = {row.topic: row for row in story.check_host(Patient(Needs(), None, Path("/")), story._OF_SLURM, JOB)}
    assert (rows[Topic.STEPS].verdict, rows[Topic.SLURM].found[:14]) == (Verdict.FAILED, "slurm 23.11.4;")
    assert rows[Topic.STEPS].found.startswith("can't finish env: still running after 0.5 s")
    assert rows[Topic.JOB].found.startswith("42 on cn[001-003]")


def test_a_step_that_fails_is_told_by_its_error(say: Callable[[str], None]) -> None:
    remark = "srun: cluster configuration lacks support for cpu binding"
    say(f"echo '{remark}' >&2; echo 'srun: error: Invalid job id' >&2; exit 1")
    rows = {row.topic: row for row in story.check_host(Patient(Needs(), None, Path("/")), story._OF_SLURM, JOB)}
    assert (rows[Topic.STEPS].verdict, rows[Topic.STEPS].found) == (Verdict.FAILED, "srun: error: Invalid job id")


def test_a_controller_that_hangs_is_not_a_file_server() -> None:
    (row,) = story._read(None, (Topic.JOB,))
    assert (row.verdict, row.remedy) == (Verdict.WARNING, "scontrol ping says whether the controller answers")


def test_trials_that_are_killed_leave_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang(patient: Patient) -> list[Row]:
        (trials._make_logs(patient, "x") / "log").write_text("words")
        (tmp_path / "hung").touch()
        time.sleep(60)
        return []

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(story, "_TRIALS", (((Topic.OUTSIDE,), hang),))
    monkeypatch.setattr(story, "_PATIENCE_S", 1.0)
    (row,) = story.check_host(Patient(Needs(), None, Path("/")), {Topic.OUTSIDE}, {})
    assert row.found == "no answer in 1 s"
    assert [path.name for path in tmp_path.iterdir()] == ["hung"]


def test_kvm_takes_a_qemu_and_no_passthrough(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_guest(*_: object, passthrough: bool = True) -> tuple[int, str]:
        return (1, "no 9p") if passthrough else (85, "")

    monkeypatch.setattr(trials, "find_kvm_obstacle", lambda: None)
    monkeypatch.setattr(trials, "_run_guest", run_guest)
    monkeypatch.setattr(trials, "find_qemu", lambda: "/usr/bin/qemu")
    patient = Patient(Needs(), None, Path("/"))
    assert [row.verdict for row in try_kvm(patient)] == [Verdict.OK]

    def find_none() -> str:
        raise ChslurmError("can't find QEMU")

    monkeypatch.setattr(trials, "find_qemu", find_none)
    assert [(row.verdict, row.found) for row in try_kvm(patient)] == [(Verdict.NOT_TRIED, "takes a QEMU")]


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


def test_what_hangs_or_breaks_is_told_and_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
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
        (Topic.TUN, Verdict.FAILED),
        (Topic.KVM, Verdict.OK),
    ]
    assert rows[0].found == "no answer in 1 s"


def test_no_qemu_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    first, second = try_qemu(Patient(Needs(), None, Path("/"), Path("/")))
    assert first.verdict is Verdict.FAILED
    assert first.found.startswith("can't find QEMU on this host: neither qemu-system-x86_64 nor")
    assert second.verdict is Verdict.NOT_TRIED
