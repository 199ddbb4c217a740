# SPDX-License-Identifier: Apache-2.0
"""Does a terminal show what a page says it shows?

A line `[...]` in the page stands for any lines, also none; `...` within a line for any characters. Everything else is
compared word for word, but for what differs from run to run and from reader to reader, by the rules in `_VARYING`: each
names one kind of thing in its surroundings, so that a number that means something (an address, a count, an exit
status) has to be right. Blanks count as one. Lines that are the name of a guest, or begin with it and a colon, one
after another, may come in any order: that is how `mpirun hostname` and `chslurm exec` print them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_SIZE = r"(?:0|\d+(?:\.\d+)?[KMGT])"

_VARYING: tuple[tuple[str, str], ...] = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d( UTC)?", "<time>"),
    (r"(?<=\.)\d{8}_\d{6}\b", "<stamp>"),  # of a job directory
    (rf"{_DAY} {_MONTH} +\d+ \d\d:\d\d:\d\d (UTC )?\d{{4}}", "<time>"),
    (rf"\b{_MONTH} +\d+ +(?:\d\d:\d\d|\d{{4}})\b", "<date>"),  # of ls -l
    (r"(?<=/mdev = )[\d./]+ ms", "<times>"),  # of ping
    (r"\b\d+(?:\.\d+)? ?(?:ms|s|seconds)\b", "<duration>"),
    (rf"^(\S+ +\S+) +{_SIZE} +{_SIZE} +{_SIZE} +\d+% +(?=/)", r"\1 <sizes> "),  # of df
    (r"(?<=[ (=])(?!65530)\d{4,5}(?=[()])", "<id>"),  # of users and groups, beside a name
    (r"(?<=\bprocess )\d+", "<pid>"),
    (r"(?<=^\[\d\] )\d+$", "<pid>"),
    (r"(?<= )\d+:\d\d:\d\d(?= )", "<duration>"),  # of chslurm ps and status
    (r"\b[0-9a-f]{16}\b", "<cluster>"),
    (r"(?<=\bVXLAN )\d+", "<vni>"),
    (r"(?<=\bSLURM job )\d+|(?<=\ballocation )\d+|(?<=\bbatch job )\d+", "<job>"),
    (r"\b\d+\.\d+\.\d+-\d+(?:-cloud)?-amd64\b", "<kernel>"),
    (r"(?<=^total )\d+$", "<blocks>"),  # of ls -l
    (r" +", " "),
)

_ANY_LINES = "[...]"
_GUEST_NAME = re.compile(r"chgu\d+(?:: .*)?")


def find_difference(expected: Sequence[str], actual: Sequence[str], *, more: bool = False) -> str | None:
    """Return None when `actual` is what the page shows, else where it goes another way.

    With `more` lines may follow that the page does not show (yet).
    """
    wanted = [_Line(line) for line in _sort_names(_trim(expected))]
    lines = [normalise(line) for line in _sort_names(_trim(actual))]
    ends, furthest = {0}, (0, 0)  # how many lines may be used up by what was expected so far
    for index, line in enumerate(wanted):
        if line.any_lines:
            ends = set(range(min(ends), len(lines) + 1))
        else:
            furthest = (index, max(ends))
            ends = {end + 1 for end in ends if end < len(lines) and line.matches(lines[end])}
        if not ends:
            break
    else:
        if more or len(lines) in ends:
            return None
        furthest = (len(wanted), max(ends))
    return _describe(expected, wanted, lines, *furthest)


def normalise(line: str) -> str:
    """Return a line with what varies replaced by what it is."""
    line = line.rstrip()
    for pattern, name in _VARYING:
        line = re.sub(pattern, name, line)
    return line


class _Line:
    """A line of a page."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.any_lines = text.strip() == _ANY_LINES
        parts = [re.escape(normalise_part(part)) for part in text.split("...")]
        self._pattern = re.compile(".*".join(parts))
        self._normal = normalise(text)

    def matches(self, line: str) -> bool:
        return line == self._normal or bool(self._pattern.fullmatch(line))


def normalise_part(part: str) -> str:
    """Return a piece of a line without what varies; its blanks at both ends count."""
    before, after = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{before[:1]}{normalise(part.strip())}{after[:1]}" if part.strip() else part[:1]


def _trim(lines: Sequence[str]) -> list[str]:
    """Empty lines at the end say nothing: a terminal is full of them."""
    kept = [line.rstrip() for line in lines]
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _sort_names(lines: list[str]) -> list[str]:
    result: list[str] = []
    names: list[str] = []
    for line in lines:
        if _GUEST_NAME.fullmatch(line):
            names.append(line)
        else:
            result += [*sorted(names), line]
            names = []
    return result + sorted(names)


def _describe(page: Sequence[str], wanted: list[_Line], lines: list[str], index: int, at: int) -> str:
    here = lines[at] if at < len(lines) else "nothing more"
    there = wanted[index].text if index < len(wanted) else "nothing more"
    return f"the page says:\n    {there}\nthe terminal shows:\n    {here}"
