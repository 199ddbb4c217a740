# SPDX-License-Identifier: Apache-2.0
"""The conversation with one guest: wait for its agent, tell it who it is, pass on its reports, see it to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import PurePath

from chslurm.guest_files import GuestFile
from chslurm.host.disks import GuestDisks, put_away
from chslurm.host.files import open_append
from chslurm.host.qemu import Ending, Qemu
from chslurm.messages import Event, EventKind, GuestOrder, GuestWord, GuestWordKind
from chslurm.phases import LONG_WORK
from chslurm.plan import Guest

_PASSED_ON = {
    GuestWordKind.READY: EventKind.GUEST_READY,
    GuestWordKind.JOB_STARTED: EventKind.JOB_STARTED,
    GuestWordKind.JOB_ENDED: EventKind.JOB_ENDED,
    GuestWordKind.BARRIER: EventKind.BARRIER,
}
"""Words that the head hears as they are. Each guest says each once; BARRIER once for each name."""

_RESIZE_PROTOCOL = 2
"""Agents of older images do not know the order and would call it a failure."""

_SIGNAL_BARRIER = "chslurm.signal."
"""Where a guest waits for the next signal for its job, a number behind it; an agent of any age knows barriers."""

_MAX_SIGNALS = 16
"""No more are passed on: an agent keeps the names of at most 64 barriers, which are for the job."""

_SAME_SIGNAL_S = 1.0
"""A signal may come by several ways, from the head and to this host: within this time it counts once."""

_MAX_WORDS = 1000
"""A guest that reports more than this is broken or hostile, and is ended."""


class Steward:
    """Speaks for one guest to the head (`tell`) and for the head to the guest."""

    def __init__(
        self, guest: Guest, qemu: Qemu, disks: GuestDisks, log: PurePath, tell: Callable[[Event], None]
    ) -> None:
        self.guest = guest
        self.qemu = qemu
        self.disks = disks
        self.log = log
        self.spoke = False
        self.stillborn = False  # it has ended by itself before its first word
        self._tell = tell
        self._files: Sequence[GuestFile] | None = None  # who the guest is, once that is known
        self._told = False
        self._told_to_end = False
        self._words = 0
        self._work_s = self._next_work_s = 0.0  # when long work was first told of, and may be again
        self._protocol = 0  # what its agent knows
        self._ready = False
        self._size: tuple[int, int] | None = None  # rows and columns of the terminal that shows its console
        self._failure = ""
        self._job_runs = False
        self._signals: list[tuple[str, float]] = []  # that were passed on, and when
        qemu.on_word = self._on_word
        qemu.on_trouble = self._fail
        qemu.console.on_size = self.resize

    @property
    def gone(self) -> bool:
        return self.qemu.ending.done()

    def introduce(self, files: Sequence[GuestFile]) -> None:
        """Tell the guest who it is, now or as soon as its agent listens."""
        self._files = files
        self._introduce()

    def release(self, barrier: str) -> None:
        """Let those go on that wait at this barrier."""
        self.qemu.say(GuestOrder(op="release", barrier=barrier))

    def signal(self, name: str) -> None:
        """Pass a signal on to the script of the job, if that runs: 99-runjob.sh waits for it."""
        now_s = time.monotonic()
        repeated = any(name == before and now_s < at_s + _SAME_SIGNAL_S for before, at_s in self._signals)
        if not self._job_runs or repeated or len(self._signals) == _MAX_SIGNALS:
            return
        self._signals.append((name, now_s))
        number = len(self._signals)
        self.qemu.say(GuestOrder(op="put", name=f"signal.{number}", mode="0600", text=f"{name}\n"))
        self.qemu.say(GuestOrder(op="release", barrier=f"{_SIGNAL_BARRIER}{number}"))

    def power_down(self) -> None:
        """Ask the guest to shut down; one that never spoke can't hear it and is ended at once."""
        self._told_to_end = True
        if self.spoke:
            self.qemu.power_down()
        else:
            self.qemu.quit()

    def quit(self) -> None:
        """End the guest without asking it."""
        self._told_to_end = True
        self.qemu.quit()

    def kill(self) -> None:
        """End the guest by the kernel."""
        self._told_to_end = True
        self.qemu.kill()

    async def see_out(self) -> None:
        """Wait for the guest's end and report it."""
        ending: Ending = await self.qemu.ending
        clean = ending.clean and not self._failure
        self.stillborn = not (self.spoke or self._told_to_end)
        self._report(EventKind.GUEST_GONE, text=self._failure or ending.why, status=0 if clean else 1)

    async def put_away(self, *, cleanup: bool, hurry: bool) -> None:
        """Put the disks of a guest that is gone where they belong; its log and its console tell of it.

        Raises ChslurmError when they can't be kept.
        """
        try:
            done = await asyncio.to_thread(put_away, self.disks, cleanup=cleanup, hurry=hurry)
            text = "".join(f"{line}\n" for line in (*done, "oneguest done"))
            with suppress(OSError), open_append(self.log) as log:
                log.write(text.encode())
            self.qemu.console.say(text)
        finally:
            self.qemu.console.close()

    def resize(self, rows: int, columns: int) -> None:
        """Give the console the size of the terminal that shows it, as soon as the guest can take it."""
        self._size = (rows, columns)
        self._resize()

    def _resize(self) -> None:
        if self._ready and self._protocol >= _RESIZE_PROTOCOL and self._size is not None:
            rows, columns = self._size
            self.qemu.say(GuestOrder(op="resize", rows=rows, columns=columns))

    def _introduce(self) -> None:
        if self._files is None or not self.spoke or self._told:
            return
        self._told = True
        for file in self._files:
            self.qemu.say(GuestOrder(op="put", name=file.name, mode=f"{file.mode:04o}", text=file.text))
        self.qemu.say(GuestOrder(op="clock", unix_s=round(time.time(), 3)))
        self.qemu.say(GuestOrder(op="boot"))

    def _on_word(self, word: GuestWord) -> None:
        if self._is_work(word):
            return
        self._words += not (word.event is GuestWordKind.HELLO and self.spoke)
        if self._words > _MAX_WORDS:
            self._fail(f"reported more than {_MAX_WORDS} things")
        elif word.event is GuestWordKind.HELLO:
            if not self.spoke:
                self.spoke, self._protocol = True, word.protocol
                self._report(EventKind.GUEST_STAGE, text=f"kernel {word.kernel} up")
            self._introduce()
        elif word.event is GuestWordKind.STAGE:
            self._report(EventKind.GUEST_STAGE, text=word.name)
        elif word.event is GuestWordKind.FAILED:
            self._fail(word.text)
        elif word.event is GuestWordKind.BARRIER and word.name.startswith(_SIGNAL_BARRIER):
            pass  # it waits for us, not for other guests
        elif (kind := _PASSED_ON.get(word.event)) is not None:
            self._report(kind, text=word.name, status=word.status & 0xFF)
            if kind in (EventKind.JOB_STARTED, EventKind.JOB_ENDED):
                self._job_runs = kind is EventKind.JOB_STARTED
            if kind is EventKind.GUEST_READY:
                self._ready = True
                self._resize()

    def _is_work(self, word: GuestWord) -> bool:
        """Pass on how far long work is, which may take as many words as it likes, but no more than one a second.

        Nor more than one in a hundredth of the time it has taken: in a month these are some 1100 lines of the journal.
        """
        if word.event is not GuestWordKind.STAGE or not word.name.endswith(LONG_WORK):
            return False
        now_s = time.monotonic()
        if now_s >= self._next_work_s:
            self._work_s = self._work_s or now_s
            self._next_work_s = now_s + max(1.0, (now_s - self._work_s) / 100)
            self._report(EventKind.GUEST_STAGE, text=word.name)
        return True

    def _fail(self, text: str) -> None:
        """The guest can't do its work: say so at its end, which is now."""
        self._failure = self._failure or text
        self.qemu.quit()

    def _report(self, kind: EventKind, *, text: str = "", status: int = 0) -> None:
        self._tell(Event(kind, self.guest.host, guest=self.guest.id, text=text, status=status))
