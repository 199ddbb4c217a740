# SPDX-License-Identifier: Apache-2.0
"""The messages in the code of the package, as patterns: what is written down in it word for word, and gaps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GAP = ".+"
_LEAST_LETTERS = 8
_LEAST_LETTERS_BEFORE_HINT = 4
"""What a message has to have outside of its gaps, so that it is not just any line."""

_TAKERS = re.compile(r"\w*Error|_end|_late|_Trouble|Choice")
"""Functions whose arguments are messages."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A message and its remedies: those in the same call, or, when that is a variable, in the same module."""

    message: re.Pattern[str]
    hints: tuple[re.Pattern[str], ...]


def find_skeletons(package: Path) -> tuple[Skeleton, ...]:
    """Return the messages of all modules in `package`."""
    return tuple(skeleton for path in sorted(package.rglob("*.py")) for skeleton in _read_module(path))


def is_message(line: str, skeletons: tuple[Skeleton, ...]) -> bool:
    """Say whether the code can make this line: a message alone, or a message, a semicolon and one of its remedies."""
    for skeleton in skeletons:
        if not skeleton.hints and skeleton.message.fullmatch(line):
            return True
        for place in re.finditer("; ", line):
            message, hint = line[: place.start()], line[place.end() :]
            if skeleton.message.fullmatch(message) and any(known.fullmatch(hint) for known in skeleton.hints):
                return True
    return False


def _read_module(path: Path) -> Iterator[Skeleton]:
    tree = ast.parse(path.read_text())
    texts = tuple(
        re.compile(text) for node in ast.walk(tree) if (text := _pattern(node)) and _letters(text) >= _LEAST_LETTERS
    )
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not _TAKERS.fullmatch(_name(node.func)):
            continue
        hint = next((keyword.value for keyword in node.keywords if keyword.arg == "hint"), None)
        known = None if hint is None else _pattern(hint)
        hints = () if hint is None else (re.compile(known),) if known else texts
        for argument in node.args:
            message = _pattern(argument)
            least = _LEAST_LETTERS_BEFORE_HINT if hints else _LEAST_LETTERS
            if message and _letters(message) >= least:
                yield Skeleton(re.compile(message), hints)


def _pattern(node: ast.AST) -> str | None:
    """The pattern of a literal text; None for what is no literal."""
    match node:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=parts):
            return "".join(_pattern(part) or _GAP for part in parts)
        case _:
            return None


def _letters(pattern: str) -> int:
    return len(re.findall("[a-z]", pattern.replace(_GAP, "")))


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
