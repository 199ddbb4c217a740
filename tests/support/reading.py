# SPDX-License-Identifier: Apache-2.0
"""A reader who does what a page says, with real terminals, and looks whether they show what the page shows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from comparing import find_difference
from pictures import take_picture
from realbox import Box, wait_for
from terminals import COLUMNS, ROWS, Screen, Terminal, Tmux, Window, Xterm
from tutorialtext import KEYS, Block, Picture, Section, Step
from workstation import Workstation

HOME = "/home/chuser"
"""What pages show for the folder that is the reader's home in a test."""

_PROMPTS = {
    "$ ": re.compile(r"(?:\^C)?\$"),
    "# ": re.compile(r"(?:\^C)?#"),
    "> ": re.compile(r"charlie@chgu\d+:\S*\$"),
}
"""What the last line is when a command can be typed; a program that Ctrl-C has ended may leave the line at the ^C."""

_STEP_TIMEOUT_S = 180.0
_GOES_ON_TIMEOUT_S = 60.0
"""How long to wait for the end of a command, and for what a command shows that does not end."""

_XTERM_GAP = 650  # pixels from one to the next
_PROMPT_TIMEOUT_S = 60.0


@dataclass(slots=True)
class _Run:
    """What was typed last into a terminal, and what the page has shown of it."""

    start: int = 0  # the line after it
    last: str = ""  # the line in which it was typed
    expected: tuple[str, ...] = ()


@dataclass(slots=True)
class Reader:
    """The reader and his windows."""

    box: Box
    tmux: Tmux
    screen: Screen
    home: Path
    pictures: Path | None  # where pictures are kept
    workstation: Workstation
    _places: dict[str, Terminal] = field(default_factory=dict)
    _runs: dict[int, _Run] = field(default_factory=dict)  # by the identity of a terminal
    lost: str = ""  # the section at which the reader gave up
    log: list[str] = field(default_factory=list)
    _differences: list[str] = field(default_factory=list)

    def do(self, section: Section) -> None:
        """Do all that a section says. Fails where something else is shown, if it can go on after the whole of it."""
        assert not self.lost, f"section {self.lost!r} was not done to its end"
        self.lost = section.title
        self._differences.clear()
        for item in section.items:
            if isinstance(item, Picture):
                self._take(item)
            elif not item.not_run:
                self._do_block(item)
        self.lost = ""
        if self._differences:
            pytest.fail("\n\n".join(self._differences))

    def show_all(self) -> str:
        """What all terminals show, to see what went wrong."""
        seen = {id(terminal): (place, terminal) for place, terminal in self._places.items()}
        return "".join(f"--- {place}\n" + "\n".join(terminal.read()) + "\n" for place, terminal in seen.values())

    def _do_block(self, block: Block) -> None:
        for step in block.steps:
            started_s = time.monotonic()
            goes_on = block.goes_on and step is block.steps[-1]
            try:
                terminal = self._find_place(block.place)
                self._type(terminal, step)
                self._compare(terminal, step, goes_on)
            except BaseException as error:
                error.add_note(f"at line {step.line} of the page, {block.place}: {step.prompt}{step.typed}")
                error.add_note("\n\n".join([*self._differences, self.show_all()]))
                raise
            self.log.append(f"line {step.line}, {block.place}: {time.monotonic() - started_s:.1f} s")
            if goes_on:
                self._learn_places(terminal, step.typed)

    # -- places -------------------------------------------------------------------------------------------------------

    def _find_place(self, place: str) -> Terminal:
        if place not in self._places:
            if place.startswith("guest"):
                pytest.fail(f"nothing shows the console of {place}")
            self._places[place] = self._open_host(place) if place.startswith("host") else self._open_own(place)
        return self._places[place]

    def _open_host(self, name: str) -> Window:
        settings = {"HOME": str(self.home), "PS1": "$ ", "CHSLURM_IMAGE": "", **self.screen.environment}
        words = [f"{name}={value}" for name, value in settings.items()]
        run = [self.box.program, "run", "--user", self.box.user, "--"]
        return self.tmux.open(name, [*run, "env", "-C", str(self.home), *words, "bash", "--norc"])

    def _open_own(self, name: str) -> Window:
        """A terminal of the user, or of root, on the host that is theirs."""
        argv = self.workstation.make_shell("root" if name == "root" else self.box.user)
        return self.tmux.open(name, argv)

    def _learn_places(self, terminal: Terminal, typed: str) -> None:
        """Where the console of a guest is after a command."""
        words = typed.split()
        if "--curses" in words:
            self._places["guest0"] = terminal
        elif "--xterm" in words:
            self._arrange_xterms(int(re.findall(r"-n ?(\d+)", typed)[0]))
        elif words[:2] == ["chslurm", "console"]:
            self._places[f"guest{words[2]}" if len(words) > 2 else "guest0"] = terminal

    def _arrange_xterms(self, guest_ct: int) -> None:
        """What a window manager does: put windows beside each other, not on one another."""
        for guest in range(guest_ct):
            found: list[str] = []

            def look(title: str = f"^chgu{guest} - ", found: list[str] = found) -> list[str]:
                found[:] = self.screen.find_windows(title)
                return found

            self._wait(look, _STEP_TIMEOUT_S, f"no xterm for guest {guest}")
            self.screen.run("xdotool", "windowmove", found[0], str(guest * _XTERM_GAP), "0")
            job_dir = self.screen.run("xdotool", "getwindowname", found[0]).strip().partition(" - ")[2]
            (console,) = self.home.glob(f"*/{job_dir}/out/{guest}_console.out")
            mirror = self.tmux.open(f"xterm{guest}", ["tail", "--lines=+1", "--follow=name", str(console)])
            self._places[f"guest{guest}"] = Xterm(self.screen, found[0], mirror)

    # -- what is typed and shown --------------------------------------------------------------------------------------

    def _type(self, terminal: Terminal, step: Step) -> None:
        run = self._runs.setdefault(id(terminal), _Run())
        if not step.prompt:
            run.expected = (*run.expected, "[...]", *step.shown)
            return
        if step.prompt != "^":
            prompt = _PROMPTS.get(step.prompt) or re.compile(re.escape(step.prompt.strip()))
            self._wait(lambda: _is_at(prompt, terminal.read()), _PROMPT_TIMEOUT_S, f"no prompt {step.prompt!r}")
        lines = terminal.read()
        run.start, run.last, run.expected = len(lines), (lines or [""])[-1], step.shown
        if step.prompt == "^":
            terminal.press(*KEYS[step.typed])
        else:
            terminal.type(step.typed)

    def _compare(self, terminal: Terminal, step: Step, goes_on: bool) -> None:
        """Wait until what is shown is what the page says; once the prompt is back, nothing more can come."""
        run, difference, shown = self._runs[id(terminal)], "", list[str]()
        deadline_s = time.monotonic() + (_GOES_ON_TIMEOUT_S if goes_on else _STEP_TIMEOUT_S)
        while time.monotonic() < deadline_s:
            lines = terminal.read()
            at_prompt = any(_is_at(prompt, lines) for prompt in _PROMPTS.values())
            if step.prompt == "^" and at_prompt and lines[-1] != run.last:  # it took back something from the screen
                run.start = min(run.start, len(lines) - 1)
            ended = at_prompt and len(lines) > run.start
            shown = [self._as_on_the_page(line) for line in (lines[run.start : -1] if ended else lines[run.start :])]
            if step.prompt == "^" and shown[:1] == [step.typed]:
                del shown[0]
            found = find_difference(run.expected, shown, more=goes_on)
            if found is None and (ended or goes_on or step.prompt.endswith("login: ")):
                return
            if ended and found is not None and found == difference:  # the same twice: nothing is on its way
                return self._note(step, found, shown)
            difference = found or "the page says that it ends here, and it goes on"
            time.sleep(0.2)
        self._note(step, difference, shown)
        if not goes_on:
            pytest.fail(difference)

    def _note(self, step: Step, difference: str, shown: list[str]) -> None:
        everything = "\n    ".join(shown)
        self._differences.append(f"line {step.line} of the page:\n{difference}\nin\n    {everything}")

    def _as_on_the_page(self, line: str) -> str:
        return line.replace(str(self.home), HOME)

    def _wait(self, look: Callable[[], object], timeout_s: float, what: str) -> None:
        wait_for(look, timeout_s, lambda: what)

    # -- pictures -----------------------------------------------------------------------------------------------------

    def _take(self, picture: Picture) -> None:
        if picture.place == "screen":
            take_picture(self.screen, None, picture.file, self.pictures)
            return
        title = f"picture of {picture.place}"
        attach = ["tmux", "-S", str(self.tmux.socket), "attach-session", "-r", "-t", picture.place]
        with self.screen.open_xterm(title, f"{COLUMNS}x{ROWS}", attach) as window:
            take_picture(self.screen, window, picture.file, self.pictures)


def _is_at(prompt: re.Pattern[str], lines: list[str]) -> bool:
    return bool(lines) and bool(prompt.fullmatch(lines[-1]))
