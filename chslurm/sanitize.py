# SPDX-License-Identifier: Apache-2.0
"""What guests print, made fit for a terminal: root in a guest writes it, so it is hostile.

Out come printable characters, newlines and tabs, nothing else. Escape sequences are dropped, CR LF is a newline, and of
text that was written over (bare CR, backspace, erased to the end) a line shows what a terminal would show in the end.
Everything else becomes visible: `^G`, `\\xff`, `\\u202e`.
ECMA-48 (5.4, 8.3) says how sequences look; one that does not end soon is no sequence, so it can't hide what follows.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

LINE_MAX = 4096
"""A longer line comes out in parts; what is out can't be written over any more. Bounds the memory, too."""

_SEQUENCE = re.compile(
    r"""\x1b(?:
        \[ (?P<arguments>[0-?]{0,64}) [ -/]{0,8} (?P<csi>[@-~])              # control sequence: colours, erasing
      | [\]PX^_k] [^\x00-\x06\x07\x0a\x18\x1a\x1b]{0,256} (?:\x07|\x1b\\)    # control string: titles, links, pictures
      | [ -/]{1,8} [0-~]                                                     # character sets
      | [0-OQ-WYZ\\`-jl-~]                                                   # all others
    )""",
    re.VERBOSE,
)
_BEGUN = re.compile(
    r"\x1b(?:\[[0-?]{0,64}[ -/]{0,8}|[\]PX^_k][^\x00-\x06\x07\x0a\x18\x1a\x1b]{0,256}\x1b?|[ -/]{0,8})\Z"
)
_CONTROL = re.compile(r"\x08+|\x0d+|\x1b")
"""The only control characters that do something, beside newlines."""


class _Visible(dict[int, str]):
    """Each character as it may be seen, for `str.translate`: all blanks are one, and what is none is spelled out."""

    def __missing__(self, number: int) -> str:
        character = chr(number)
        if number < 0x20 or number == 0x7F:
            seen = "\t" if character == "\t" else f"^{chr(number ^ 0x40)}"
        elif character.isprintable():
            seen = character
        elif unicodedata.category(character) == "Zs":
            seen = " "
        else:
            seen = character.encode("unicode_escape").decode()
        self[number] = seen
        return seen


_VISIBLE = _Visible({ord("\n"): "\n"})


def _make_visible(text: str) -> str:
    return text if text.replace("\n", "").isprintable() else text.translate(_VISIBLE)


class Sanitizer:
    """One file's bytes, in parts of any size, to text. How they are cut makes no difference."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._begun = ""  # of an escape sequence
        self._line = ""
        self._cursor = 0
        self._returned = False  # to the beginning of the line, by a bare CR
        self._shown = False  # a part of this line is out already
        self._out: list[str] = []

    def feed(self, data: bytes) -> str:
        """Return the lines that are complete now."""
        self._read(self._begun + self._decode(data))
        return self._take()

    def flush(self) -> str:
        """Return what there is of the line that is not complete; from now on it can't be written over."""
        self._emit()
        return self._take()

    def finish(self) -> str:
        """Return all that is left, as at the end of a file."""
        text = self._begun + self._decode(b"", True)
        for part in re.findall(r"\x08+|\x0d+|[^\x08\x0d]+", text):
            (self._move if part[0] in "\b\r" else self._put)(part)
        self._begun = ""
        return self.flush()

    def _read(self, text: str) -> None:
        self._begun = ""
        position = 0
        text = text.replace("\r\n", "\n")  # the same, and what consoles have at the end of each line
        while position < len(text):
            found = _CONTROL.search(text, position)
            end = found.start() if found else len(text)
            if end > position:
                self._put_lines(text[position:end])
            if found is None:
                return
            if found[0] != "\x1b":
                self._move(found[0])
                position = found.end()
            elif sequence := _SEQUENCE.match(text, end):
                self._obey(sequence)
                position = sequence.end()
            elif _BEGUN.match(text, end):
                self._begun = text[end:]
                return
            else:
                self._put("\x1b")
                position = end + 1

    def _move(self, controls: str) -> None:
        """Obey carriage returns, or backspaces."""
        if controls[0] == "\r":
            self._cursor, self._returned = 0, True
        else:
            self._cursor = max(0, self._cursor - len(controls))

    def _put_lines(self, run: str) -> None:
        """Write what moves the cursor forward only; lines that begin and end in it, all at once."""
        first, newline, rest = run.partition("\n")
        if first:
            self._put(first)
        if newline:
            self._emit()
            lines, newline, last = rest.rpartition("\n")
            self._out.append("\n" + _make_visible(lines) + newline)
            self._shown = self._returned = False
            if last:
                self._put(last)

    def _obey(self, sequence: re.Match[str]) -> None:
        """Of all sequences only this one matters: erase to the end of the line (0 or nothing), or all of it (2)."""
        if sequence["csi"] == "K" and sequence["arguments"] in ("", "0", "2"):
            blank = " " * self._cursor if sequence["arguments"] == "2" else self._line[: self._cursor]
            self._line = blank

    def _put(self, run: str) -> None:
        """Write at the cursor."""
        if self._returned and self._shown:  # what is out stays as it is: go on below it
            self._emit()
            self._out.append("\n")
            self._shown = False
        self._returned = False
        text = _make_visible(run)
        while text:
            room = LINE_MAX - self._cursor
            part, text = text[:room], text[room:]
            self._line = self._line[: self._cursor] + part + self._line[self._cursor + len(part) :]
            self._cursor += len(part)
            if self._cursor >= LINE_MAX:
                self._emit()

    def _emit(self) -> None:
        if self._line:
            self._out.append(self._line)
            self._shown = True
        self._line, self._cursor = "", 0

    def _take(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text


class Interleaver:
    """Texts of several sources in one stream: each line with the label of its source, none broken silently."""

    def __init__(self) -> None:
        self._open: str | None = None  # whose line is not ended
        self._broken: set[str] = set()  # whose line was ended by us, for another

    def add(self, label: str, text: str) -> str:
        """Return what to print for a piece of text of this source. A label may be empty."""
        if not text:
            return ""
        before = ""
        if self._open is not None and self._open != label:
            self._broken.add(self._open)
            before, self._open = "\n", None
        if label in self._broken and text.startswith("\n"):
            text = text[1:]
        self._broken.discard(label)
        *lines, rest = text.split("\n")
        first = "" if self._open == label else label
        starts = [first] + [label] * len(lines)
        self._open = label if rest or (not lines and self._open == label) else None
        whole = "".join(f"{start}{line}\n" for start, line in zip(starts, lines, strict=False))
        return before + whole + (f"{starts[len(lines)]}{rest}" if rest else "")

    def end(self) -> str:
        """Return what ends the last line."""
        ending = "" if self._open is None else "\n"
        self._open = None
        return ending
