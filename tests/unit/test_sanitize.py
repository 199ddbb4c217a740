# SPDX-License-Identifier: Apache-2.0
"""What guests print must not reach a terminal as it is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.sanitize import LINE_MAX, Interleaver, Sanitizer

PARTS = [
    *(
        b"\x1b",
        b"[",
        b"]0;title",
        b"\x07",
        b"\x1b\\",
        b"31m",
        b"K",
        b"2K",
        b"P",
        b"(B",
        b"c",
        b"\x1b]8;;http://a\x1b\\",
    ),
    *(b"\r", b"\n", b"\r\n", b"\b", b"\t", b"a", b"bc", b"\x00", b"\x7f", b"\x18", b"x" * 300),
    *(b"\x9b", b"\xc2\x9b", b"\xe2\x80\xae", b"\xff", b"\xe2\x80\xa8", b"\xc2\x85", b"\xed\xa0\x80"),
    "é中\u200b\ufeff\U000e0001".encode(),
]

hostile = st.one_of(st.binary(max_size=400), st.lists(st.sampled_from(PARTS), max_size=40).map(b"".join))


def sanitize(data: bytes) -> str:
    sanitizer = Sanitizer()
    return sanitizer.feed(data) + sanitizer.finish()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"no newline", "no newline"),
        (b"\ttab\n", "\ttab\n"),
        (b"console\r\nlines\r\n", "console\nlines\n"),
        (b"stretched\r\r\n", "stretched\n"),
        (b"10 %\r20 %\r100 %\n", "100 %\n"),
        (b"long text\rshort\n", "shorttext\n"),
        (b"[ *** ] waiting\r\x1b[K[  OK  ] done\r\n", "[  OK  ] done\n"),
        (b"typo\b\b\bext\x1b[K\n", "text\n"),
        (b"abc\r\x1b[2K\n", "\n"),
        (b"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mssh.service\x1b[0m.\r\n", "[  OK  ] Started ssh.service.\n"),
        (b"\x1b]0;root@chgu0\x07title\x1b]8;;http://x\x1b\\link\n", "titlelink\n"),
        (b"\x1b(B\x1b)0\x1b7\x1bcreset\x1b[?25l\x1b[6n\x1b[1;1H\n", "reset\n"),
        (b"\x1bP$q\x1b\\dcs\x1b_apc\x1b\\\x1b^pm\x1b\\.\n", "dcs.\n"),
        (b"\x1b]0;never ends\nhidden?\n", "^[]0;never ends\nhidden?\n"),
        (b"\x1b]" + b"x" * 300 + b"\x07\n", "^[]" + "x" * 300 + "^G\n"),
        (b"\x1b[" + b"1" * 100 + b"m\n", "^[[" + "1" * 100 + "m\n"),
        (b"cut off \x1b[3", "cut off ^[[3"),
        (b"\a\0\x7f\x0b\n", "^G^@^?^K\n"),
        (b"\xff\xc3(\n", "\\xff\\xc3(\n"),
        (b"\xc2\x9b31m \xc2\x85\n", "\\x9b31m \\x85\n"),
        ("\u202eabc \u2066x \u200f\n".encode(), "\\u202eabc \\u2066x \\u200f\n"),
        ("é 中 \U0001f600\n".encode(), "é 中 \U0001f600\n"),
        ("a\u00a0b\u3000c\u2028d\ufeff\n".encode(), "a b c\\u2028d\\ufeff\n"),
        (b"cut \xe4\xb8", "cut \\xe4\\xb8"),
    ],
)
def test_what_becomes_of_it(data: bytes, text: str) -> None:
    assert sanitize(data) == text


@given(hostile)
def test_nothing_but_printable_text_comes_out(data: bytes) -> None:
    text = sanitize(data)
    assert all(line.isprintable() for line in text.replace("\t", "").split("\n")), ascii(text)


@given(hostile)
def test_printable_text_stays_as_it_is(data: bytes) -> None:
    text = sanitize(data)
    assert sanitize(text.encode()) == text


@given(st.lists(hostile, max_size=5), st.booleans())
def test_cut_anywhere_it_is_the_same_and_flushed_it_is_still_harmless(parts: list[bytes], flush: bool) -> None:
    sanitizer, text = Sanitizer(), ""
    for part in parts:
        text += sanitizer.feed(part) + (sanitizer.flush() if flush else "")
    text += sanitizer.finish()
    if flush:
        assert all(line.isprintable() for line in text.replace("\t", "").split("\n")), ascii(text)
    else:
        assert text == sanitize(b"".join(parts))


printing = st.lists(
    st.sampled_from([*PARTS, b"\r\r\n", b"\b\b\b", b"y\n" * 9, b"\n\n", b"long" * LINE_MAX]), max_size=20
)


@given(printing.map(b"".join), st.booleans())
def test_many_lines_at_once_are_the_same_as_byte_by_byte(data: bytes, shown: bool) -> None:
    slow, fast = Sanitizer(), Sanitizer()
    before = b"login: " if shown else b""
    assert slow.feed(before) + slow.flush() == fast.feed(before) + fast.flush()
    text = "".join(slow.feed(data[place : place + 1]) for place in range(len(data))) + slow.finish()
    assert fast.feed(data) + fast.finish() == text


@pytest.mark.parametrize("data", [b"y\n", b"y\r\n", b"\n", b"\b", b"\r"])
def test_what_is_printed_in_a_loop_is_shown_about_as_fast_as_text(data: bytes) -> None:
    def measure(part: bytes) -> float:
        whole, times = part * ((1 << 19) // len(part)), []
        for _ in range(3):
            start_s = time.process_time()
            Sanitizer().feed(whole)
            times.append(time.process_time() - start_s)
        return min(times)

    assert measure(data) < 10 * measure(b"x" * 79 + b"\n")


def test_a_line_without_end_comes_in_parts() -> None:
    sanitizer, out = Sanitizer(), []
    for _ in range(1000):
        out.append(sanitizer.feed(b"x" * 1000))
        assert len(sanitizer._line) <= LINE_MAX
    assert "".join(out) + sanitizer.finish() == "x" * 1000000


def test_a_sequence_without_end_is_not_kept() -> None:
    sanitizer = Sanitizer()
    for _ in range(1000):
        sanitizer.feed(b"\x1b]" + b"x" * 100)
        assert len(sanitizer._begun) < 300


def test_what_is_out_is_not_written_over() -> None:
    sanitizer = Sanitizer()
    assert sanitizer.feed(b"chgu0 login: ") == ""
    assert sanitizer.flush() == "chgu0 login: "
    assert sanitizer.feed(b"root\r\nnext\n") == "root\nnext\n"
    assert sanitizer.feed(b"10 %") + sanitizer.flush() == "10 %"
    assert sanitizer.feed(b"\r20 %\r30 %\n") == "\n30 %\n"
    assert sanitizer.feed(b"ends") + sanitizer.flush() + sanitizer.feed(b"\r\n") == "ends\n"


def test_lines_of_several_sources() -> None:
    merge = Interleaver()
    assert merge.add("a: ", "one\ntwo\n") == "a: one\na: two\n"
    assert merge.add("a: ", "thr") == "a: thr"
    assert merge.add("a: ", "") == ""
    assert merge.add("a: ", "ee") == "ee"
    assert merge.add("a: ", "\nfour") == "\na: four"
    assert merge.add("b: ", "x\n") == "\nb: x\n"
    assert merge.add("a: ", "five\n\n") == "a: five\na: \n"
    assert [merge.add("a: ", "80 %"), merge.add("b: ", "x\n"), merge.add("a: ", "\nsix\n")] == [
        "a: 80 %", "\nb: x\n", "a: six\n",
    ]  # fmt: skip
    assert (merge.add("b: ", "y"), merge.end(), merge.end()) == ("b: y", "\n", "")


def test_one_source_needs_no_label() -> None:
    merge = Interleaver()
    assert "".join(merge.add("", part) for part in ("a", "b\n", "\n", "c")) + merge.end() == "ab\n\nc\n"


@given(st.lists(st.tuples(st.sampled_from(["a: ", "b: "]), st.text("xy\n", max_size=6)), max_size=10))
def test_each_line_has_its_label_and_nothing_is_lost(pieces: list[tuple[str, str]]) -> None:
    merge = Interleaver()
    printed = "".join(merge.add(*piece) for piece in pieces) + merge.end()
    assert all(line[:3] in ("a: ", "b: ") for line in printed.splitlines())
    for label in ("a: ", "b: "):
        theirs = "".join(line[3:] for line in printed.splitlines() if line.startswith(label))
        assert theirs == "".join(text for of, text in pieces if of == label).replace("\n", "")
