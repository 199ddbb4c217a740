# SPDX-License-Identifier: Apache-2.0
"""One guest's process from start to end, with the stand-in for QEMU on PATH."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from chslurm.guest import Disk, Machine, Passthrough
from chslurm.host.qemu import Ending, Qemu, start_qemu
from chslurm.host.shortlog import ShortLog
from chslurm.messages import GuestOrder, GuestWordKind
from chslurm.plan import Accelerator

FAKES = Path(__file__).parent.parent / "fakes" / "bin"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", f"{FAKES}:{os.environ['PATH']}")
    return Machine(
        name="chgu0",
        mac="02:00:ac:16:01:01",
        cores=1,
        ram_mib=256,
        accelerator=Accelerator.TCG,
        firmware=None,
        kernel=None,
        root=Disk("/none"),
        temporary=Disk("/none"),
        shares=(Passthrough("meta", str(tmp_path), read_only=True),),
        tap_fds=(0,),
        qmp_fd=-1,
        control_fd=-1,
        console_fd=-1,
        job_output=tmp_path / "job.out",
        job_errors=tmp_path / "job.err",
    )


def start(machine: Machine) -> Qemu:
    """Start it with logs beside what is passed through to it."""
    folder = Path(machine.shares[0].path)
    return start_qemu(machine, *(ShortLog(folder / name, 8 << 20) for name in ("0_console.out", "0_oneguest.out")))


def live(machine: Machine, act: Callable[[Qemu], None]) -> Ending:
    """Start the machine, wait for its hello, do `act` and return how it ended."""

    async def story() -> Ending:
        qemu = start(machine)
        hello = asyncio.Event()
        qemu.on_word = lambda word: hello.set() if word.event is GuestWordKind.HELLO else None
        await asyncio.wait_for(hello.wait(), 10)
        await asyncio.wait_for(qemu.connected.wait(), 10)
        act(qemu)
        ending = await asyncio.wait_for(qemu.ending, 10)
        qemu.console.close()
        await asyncio.sleep(0.01)
        return ending

    return asyncio.run(story())


def test_console_is_where_it_was_said_to_be(machine: Machine, tmp_path: Path) -> None:
    live(machine, Qemu.kill)
    assert (tmp_path / "0_console.out").read_bytes() == b"fake guest\r\n"


def test_console_that_is_flooded_is_kept_short(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def boot(qemu: Qemu) -> None:
        qemu.say(GuestOrder(op="boot"))
        qemu.power_down()  # heard when it has booted

    monkeypatch.setenv("FAKE_GUEST", "floods")
    assert live(machine, boot).clean
    first, before, newest = (
        (tmp_path / name).read_bytes() for name in ("0_console.first.out", "0_console.before.out", "0_console.out")
    )
    assert len(first) + len(before) + len(newest) <= 8 << 20
    assert first.startswith(b"fake guest\r\n000000000\n000000001\n")
    assert before.startswith(b"[chslurm: what came before this is in ")
    assert newest.endswith(b"the end\n")
    told = rb"\[chslurm: what came before this is in 0_console.before.out, .* (\d+) bytes between them are gone\]\n"
    match = re.match(told, newest)
    assert match is not None
    assert int(match[1]) > 1 << 20


def test_orderly_shutdown_is_clean(machine: Machine) -> None:
    assert live(machine, Qemu.power_down) == Ending(clean=True, why="shut down")


def test_killed_after_the_guest_shut_down_is_not_clean(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GUEST", "fragile")
    why = "shut down, then QEMU ended: killed by SIGKILL"
    assert live(machine, Qemu.power_down) == Ending(clean=False, why=why)


def test_its_last_words_are_heard_though_it_is_told_something_after_its_end(machine: Machine) -> None:
    async def shut_down(qemu: Qemu) -> None:
        qemu.say(GuestOrder(op="poweroff"))
        os.waitid(os.P_PID, qemu.process.pid, os.WEXITED | os.WNOWAIT)  # before anything else is done here

    def quit_late(qemu: Qemu) -> None:
        qemu.quit()  # writes when the other task has done its work
        qemu.shut_down = asyncio.create_task(shut_down(qemu))  # type: ignore[attr-defined] # the loop holds it weakly

    assert live(machine, quit_late) == Ending(clean=True, why="shut down")


def test_quit_is_not_clean(machine: Machine) -> None:
    assert live(machine, Qemu.quit) == Ending(clean=False, why="quit on order")


def test_kill_is_told_as_such(machine: Machine) -> None:
    assert live(machine, Qemu.kill) == Ending(clean=False, why="QEMU ended: killed by SIGKILL")


def test_term_is_no_success_though_qemu_exits_0(machine: Machine) -> None:
    def term(qemu: Qemu) -> None:
        os.kill(qemu.process.pid, signal.SIGTERM)

    assert live(machine, term) == Ending(clean=False, why="QEMU was ended by a signal")


def test_panic_is_told_as_such(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GUEST", "panic")
    assert live(machine, lambda qemu: qemu.say(GuestOrder(op="boot"))) == Ending(clean=False, why="kernel panic")


def test_why_it_gave_up_is_told_in_its_own_words(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> Ending:
        qemu = start(machine)
        ending = await asyncio.wait_for(qemu.ending, 10)
        qemu.console.close()
        return ending

    log = Path(machine.shares[0].path) / "0_oneguest.out"
    log.write_text("of an earlier one\n")
    monkeypatch.setenv("FAKE_GUEST", "broken")
    why = "QEMU ended: exit status 1: Could not initialize ?[7mSDL"
    assert asyncio.run(story()) == Ending(clean=False, why=why)
    assert log.read_text().startswith("of an earlier one\nfirst line\n")
