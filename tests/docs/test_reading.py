# SPDX-License-Identifier: Apache-2.0
"""A reader notices when a terminal shows something else, and when a command ends that should not, or does not end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import reading
from reading import Reader
from tutorialtext import parse_page

OUTPUT = {
    "ls": ["a", "b", "$"],
    "true": ["$"],
    "follow": ["one", "two"],
    "hang": ["one"],
}


class Pretence:
    """A terminal that shows what OUTPUT says."""

    def __init__(self) -> None:
        self.lines = ["$"]
        self.after_interrupt = ["^C", "$"]

    def type(self, text: str) -> None:
        self.lines[-1] += f" {text}"
        self.lines += OUTPUT[text]

    def press(self, *keys: str) -> None:
        assert keys == ("C-c",)
        self.lines += self.after_interrupt

    def read(self) -> list[str]:
        return list(self.lines)


@pytest.fixture
def pretender(monkeypatch: pytest.MonkeyPatch) -> Reader:
    for name in ("_STEP_TIMEOUT_S", "_GOES_ON_TIMEOUT_S", "_PROMPT_TIMEOUT_S"):
        monkeypatch.setattr(reading, name, 0.5)
    nothing: Any = None
    reader = Reader(nothing, nothing, nothing, Path("/nowhere"), None, nothing)
    reader._places["host"] = Pretence()
    return reader


def read_page(reader: Reader, *blocks: str) -> None:
    for section in parse_page("\n".join(f"```{{{block}\n```" for block in blocks)):
        reader.do(section)


HOST, GOES_ON = ".console .host}\n", ".console .host .goes-on}\n"


@pytest.mark.parametrize("after_interrupt", [["^C", "$"], ["^C$"], ["$"]])
def test_what_is_right_passes(pretender: Reader, after_interrupt: list[str]) -> None:
    terminal = pretender._places["host"]
    assert isinstance(terminal, Pretence)
    terminal.after_interrupt = after_interrupt
    read_page(pretender, HOST + "$ ls\na\nb\n$ true", GOES_ON + "$ follow\none", GOES_ON + "two", HOST + "^C\n$ true")


@pytest.mark.parametrize(
    "blocks",
    [
        [HOST + "$ ls\na\nc"],
        [HOST + "$ ls\na"],
        [HOST + "$ ls\na\nb\nc"],
        [HOST + "$ true\na"],
        [HOST + "$ hang\none"],
        [GOES_ON + "$ follow\nthree"],
        [GOES_ON + "$ follow\none", GOES_ON + "three"],
        [GOES_ON + "$ follow\none\n", HOST + "$ ls\na\nb"],
    ],
)
def test_what_is_wrong_fails(pretender: Reader, blocks: list[str]) -> None:
    with pytest.raises(pytest.fail.Exception):
        read_page(pretender, *blocks)
