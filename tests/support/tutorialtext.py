# SPDX-License-Identifier: Apache-2.0
"""What a page of documentation tells its reader to do: its blocks and pictures, in order.

A block of a page that is run says where it runs:

    ```{.console .host}        a terminal on the host; `host2`, `host3` are further ones
    ```{.console .own}         a terminal on a host that is the reader's own; `own2`, `own3` are further ones
    ```{.console .root}        a terminal of root there
    ```{.console .guest0}      the console of a guest, in whatever window the reader has it
    ```{.console .host .goes-on}               its last command does not end with it
    ```{.console .host .not-run title="WHY"}   not run, and the reader sees why

    ```{.text .message}        messages, or parts of a script, that are only quoted

In it `$ ` (host), `# ` (root), `> ` (guest) and `NAME login: ` begin lines that are typed; a line that ends with a
backslash, typed or shown, goes on in the next one. `^C` and `^]q` alone on a line are keys. All else is what the
terminal shows, and a block that begins with such lines shows more of what runs there.

A picture `img/PLACE-NAME.png` is taken where it stands: of PLACE, or of the whole `screen`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

KEYS = {"^C": ("C-c",), "^]q": ("C-]", "q")}
"""Keys as the page shows them, and their names in tmux."""

_FENCE = re.compile(r"^(?P<fence>```+)(?P<info>.*)$")
_INFO = re.compile(
    r"\{\.console \.(?P<place>(?:host|own)[2-9]?|root|guest[0-9])"
    r'(?P<marks>(?: \.[a-z-]+)*)(?: title="(?P<why>[^"]+)")?\}'
)
_QUOTED = re.compile(r"\{\.text \.message\}|sh")
_PICTURE = re.compile(r"^!\[(?P<text>[^]]+)\]\(img/(?P<file>(?P<place>screen|host[2-9]?)-[a-z-]+\.png)\)$")
_MARKS = {"goes-on", "not-run"}
_LOGIN = re.compile(r"chgu[0-9]+ login: ")


class PageError(Exception):
    """A page that can't be understood; the message names its line."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something is typed, or nothing, and then lines are shown."""

    line: int
    prompt: str  # "$ ", "> ", "chgu0 login: ", "^" for keys, "" when nothing is typed
    typed: str
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """What happens in one place."""

    line: int
    place: str
    steps: tuple[Step, ...]
    goes_on: bool
    not_run: str  # why; empty when it is run


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is taken at this point."""

    line: int
    place: str
    file: str


@dataclass(frozen=True, slots=True)
class Section:
    """The part under one heading of second level."""

    title: str
    items: tuple[Block | Picture, ...]


def parse_page(text: str) -> tuple[Section, ...]:
    """Return the sections that have something to do. Raises PageError for a block that does not say where it runs."""
    sections: list[tuple[str, list[Block | Picture]]] = [("", [])]
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        if fence := _FENCE.match(line):
            body = list(_take_body(lines, fence["fence"], number))
            if not _QUOTED.fullmatch(fence["info"].strip()):
                sections[-1][1].append(_parse_block(number, fence["info"], body))
        elif picture := _PICTURE.match(line):
            sections[-1][1].append(Picture(number, picture["place"], picture["file"]))
        elif line.startswith("!["):
            raise PageError(f"line {number}: a picture of what? call it img/PLACE-NAME.png")
        elif line.startswith("## "):
            sections.append((line[3:].strip(), []))
    return tuple(Section(title, tuple(items)) for title, items in sections if items)


def _take_body(lines: Iterator[tuple[int, str]], fence: str, start: int) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if line.rstrip() == fence:
            return
        yield number, line
    raise PageError(f"line {start}: the block has no end")


def _parse_block(number: int, info: str, body: list[tuple[int, str]]) -> Block:
    found = _INFO.fullmatch(info.strip())
    marks = set(found["marks"].replace(".", "").split()) if found else set()
    if not found or not marks <= _MARKS:
        raise PageError(f"line {number}: the block does not say where it runs: {info!r}")
    if ("not-run" in marks) != bool(found["why"]):
        raise PageError(f"line {number}: a block that is not run needs a title that says why, and no other has one")
    steps = tuple(_parse_steps(body, ("# ",) if found["place"] == "root" else ("$ ", "> ")))
    if not steps:
        raise PageError(f"line {number}: the block is empty")
    return Block(number, found["place"], steps, "goes-on" in marks, found["why"] or "")


def _parse_steps(body: list[tuple[int, str]], prompts: tuple[str, ...]) -> Iterator[Step]:
    start, prompt, typed, shown = 0, "", "", list[str]()
    unfinished = False
    for number, line in body:
        begins = _read_input(line, prompts)
        if unfinished:
            typed = f"{typed} {line.strip()}"
        elif begins is not None:
            if start:
                yield Step(start, prompt, typed, tuple(shown))
            start, shown = number, []
            prompt, typed = begins
        else:
            start = start or number
            if shown and shown[-1].endswith("\\"):
                line = f"{shown.pop().removesuffix(chr(92)).rstrip()} {line.strip()}"
            shown.append(line.rstrip())
            continue
        unfinished = typed.endswith("\\")
        typed = typed.removesuffix("\\").strip()
    if start:
        yield Step(start, prompt, typed, tuple(shown))


def _read_input(line: str, prompts: tuple[str, ...]) -> tuple[str, str] | None:
    """Return prompt and typed text of a line that is typed."""
    if line in KEYS:
        return "^", line
    for prompt in prompts:
        if line.startswith(prompt):
            return prompt, line[2:]
    login = _LOGIN.match(line)
    return (login[0], line[login.end() :]) if login else None
