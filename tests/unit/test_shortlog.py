# SPDX-License-Identifier: Apache-2.0
"""Logs whose length guests decide: what stays of them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chslurm.host.shortlog import ShortLog

PART = 1000
"""A quarter of what a log may take here."""


class Written:
    """A log as QEMU writes it, and what is left of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "3_console.out"
        self.log = ShortLog(self.path, 4 * PART)
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    def write(self, text: bytes) -> None:
        self.file.write(text)
        asyncio.run(self.log.grow(len(text)))

    def read(self) -> list[bytes]:
        """The beginning, what came before, and what is new."""
        names = ("3_console.first.out", "3_console.before.out", "3_console.out")
        return [path.read_bytes() if path.exists() else b"" for path in map(self.path.with_name, names)]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    log = Written(tmp_path)
    with log.file:
        yield log


def test_a_short_log_is_left_alone(written: Written) -> None:
    written.write(b"a" * (PART - 1))
    assert written.read() == [b"", b"", b"a" * (PART - 1)]


def test_the_beginning_stays_and_the_middle_goes(written: Written) -> None:
    for letter in b"abcd":
        written.write(bytes([letter]) * PART)
    written.write(b"the end\n")
    first, before, newest = written.read()
    assert first == b"a" * PART
    told = b"[chslurm: what came before this is in 3_console.before.out, the beginning in 3_console.first.out, "
    assert newest == told + b"%d bytes between them are gone]\nthe end\n" % (2 * PART)
    assert before.endswith(b"d" * PART)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 3 * PART // 2), max_size=30))
def test_what_is_left_is_bounded_and_nothing_is_left_out_untold(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    written = Written(tmp_path_factory.mktemp("log"))
    text = b"".join(b"%d." % number for number in range(sum(sizes)))[: sum(sizes)]
    done = 0
    with written.file:
        for size in sizes:
            written.write(text[done : done + size])
            done += size
    first, before, newest = (re.sub(rb"\[chslurm: [^\n]*\]\n", b"", part) for part in written.read())
    assert text.startswith(first)
    assert text.endswith(before + newest)
    assert len(newest) < PART
    assert sum(map(len, written.read())) < 2 * (PART * 5 // 2) + PART + 400
    gone = re.match(rb"\[chslurm: .* (\d+) bytes between", written.read()[2])
    assert len(first) + len(before) + len(newest) + (int(gone[1]) if gone else 0) == len(text)


def test_others_who_have_it_open_go_on_at_its_new_beginning(written: Written) -> None:
    written.write(b"x" * PART)
    written.file.write(b"still the same file\n")
    assert written.path.read_bytes().split(b"\n")[1] == b"still the same file"


def test_no_link_is_followed(written: Written, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    (tmp_path / "3_console.first.out").symlink_to(mine)
    written.write(b"x" * PART)
    assert mine.read_bytes() == b"precious"
    assert written.path.read_bytes() == b"x" * PART


FULL_DISK = """
import resource, signal, sys
from pathlib import PurePath
from chslurm.host.shortlog import ShortLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
ShortLog(PurePath(sys.argv[1]), 4000).shorten()
"""


def test_what_can_not_be_copied_stays_and_takes_no_room_twice(written: Written) -> None:
    written.file.write(b"x" * PART)
    subprocess.run([sys.executable, "-c", FULL_DISK, os.fspath(written.path)], check=True)
    assert written.read() == [b"", b"", b"x" * PART]
    written.write(b"y" * PART)
    assert written.read()[0] == b"x" * PART + b"y" * PART
