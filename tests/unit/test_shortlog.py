# SPDX-License-Identifier: Apache-2.0
"""Logs whose length guests decide: what stays of them."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chslurm.host import shortlog
from chslurm.host.files import open_append
from chslurm.host.shortlog import ShortLog, record

PART = 1000
"""A third of what a log may take here."""

NAMES = ("3_console.first.out", "3_console.before.out", "3_console.out")


def write(folder: Path, *texts: bytes, path: Path | None = None) -> list[bytes]:
    """Write a log and return what is left of it: the beginning, what came before, and what is new."""

    async def story() -> None:
        log = ShortLog(path or folder / NAMES[2], 3 * PART)
        for text in texts:
            await log.write(text)
            await asyncio.sleep(0)
        await log.finish()

    asyncio.run(story())
    return read(folder)


def read(folder: Path) -> list[bytes]:
    return [path.read_bytes() if path.exists() else b"" for path in map(folder.joinpath, NAMES)]


def test_a_short_log_is_left_alone(tmp_path: Path) -> None:
    assert write(tmp_path, b"a" * (PART - 10), b"b" * 10) == [b"", b"", b"a" * (PART - 10) + b"b" * 10]
    assert os.listdir(tmp_path) == [NAMES[2]]


def test_it_is_there_before_anything_is_written(tmp_path: Path) -> None:
    ShortLog(tmp_path / "none" / NAMES[2], PART).start()  # where it can't be, nothing ends for that
    log = ShortLog(tmp_path / NAMES[2], PART)
    log.start()
    assert (tmp_path / NAMES[2]).stat().st_mode & 0o777 == 0o600
    asyncio.run(log.finish())


def test_what_is_there_already_counts(tmp_path: Path) -> None:
    (tmp_path / NAMES[2]).write_bytes(b"early\n")
    assert write(tmp_path, b"a" * PART)[0] == b"early\n" + b"a" * (PART - 6)


def test_the_beginning_stays_and_the_middle_goes(tmp_path: Path) -> None:
    first, before, newest = write(tmp_path, *(bytes([letter]) * PART for letter in b"abcdef"), b"the end\n")
    assert first == b"a" * PART
    told = b"[chslurm: what came before this is in 3_console.before.out, the beginning in 3_console.first.out, "
    line, _, rest = newest.partition(b"\n")
    assert re.fullmatch(re.escape(told) + rb"\d+ bytes between them are gone\]", line)
    assert re.fullmatch(rb"(\[chslurm: .*\]\n)d*e*f*", before)
    assert rest.endswith(b"fthe end\n")


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 5 * PART // 2), max_size=20))
def test_what_is_left_is_bounded_and_nothing_is_left_out_untold(
    tmp_path_factory: pytest.TempPathFactory, sizes: Sequence[int]
) -> None:
    text = b"".join(b"%d." % number for number in range(sum(sizes)))[: sum(sizes)]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    parts = write(
        tmp_path_factory.mktemp("log"),
        *(text[start : start + size] for start, size in zip(starts, sizes, strict=True)),
    )
    assert max(map(len, parts)) <= PART
    first, before, newest = (re.sub(rb"\[chslurm: [^\n]*\]\n", b"", part) for part in parts)
    assert text.startswith(first)
    assert text.endswith(before + newest)
    gone = re.match(rb"\[chslurm: .* (\d+) bytes between", parts[2])
    assert len(first) + len(before) + len(newest) + (int(gone[1]) if gone else 0) == len(text)


def test_no_link_is_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    for name in NAMES[:2]:
        (tmp_path / name).symlink_to(mine)
    write(tmp_path, b"x" * 4 * PART)
    assert mine.read_bytes() == b"precious"
    (tmp_path / NAMES[2]).unlink()
    (tmp_path / NAMES[2]).symlink_to(mine)
    write(tmp_path, b"x" * PART)
    assert mine.read_bytes() == b"precious"


def test_where_no_further_file_is_allowed_its_end_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_no_further(path: Path) -> BinaryIO:
        if any(tmp_path.iterdir()):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return open_append(path)

    monkeypatch.setattr(shortlog, "open_append", open_no_further)
    told = f"[chslurm: {PART} bytes before this are gone]\n".encode()
    assert write(tmp_path, b"a" * PART + b"the end") == [b"", b"", told + b"the end"]


def test_a_full_disk_loses_what_comes_and_ends_nothing(tmp_path: Path) -> None:
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        assert write(tmp_path, b"x" * PART, b"y") == [b"", b"", b"x" * 700]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert write(tmp_path, b"z")[2] == b"x" * 700 + b"z"


def test_a_disk_that_is_full_when_a_file_begins_takes_nothing_from_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            if os.fstat(self.fileno()).st_size == 0 and (tmp_path / NAMES[0]).exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)  # type: ignore[arg-type]

    monkeypatch.setattr(shortlog, "open_append", lambda path: Full(path, "a"))
    first, before, newest = write(tmp_path, b"a" * PART, b"b", b"c", b"d")
    assert (first, before, newest) == (b"a" * PART, b"", b"")


def test_one_that_is_taken_away_begins_anew(tmp_path: Path) -> None:
    async def story() -> None:
        log = ShortLog(tmp_path / NAMES[2], 3 * PART)
        await log.write(b"a" * PART)
        await log.finish()
        (tmp_path / NAMES[2]).unlink()
        await log.write(b"b" * 10)
        await log.finish()

    asyncio.run(story())
    assert read(tmp_path)[2] == b"b" * 10


def test_all_is_written_when_a_recording_is_ended(tmp_path: Path) -> None:
    """The last words of a guest are there before anybody is told that it is gone."""

    async def story() -> None:
        reader, shown = asyncio.StreamReader(), bytearray()
        recording = asyncio.create_task(record(reader, ShortLog(tmp_path / NAMES[2], 3 * PART), shown.extend))
        reader.feed_data(b"last words")
        await asyncio.sleep(0.01)
        recording.cancel()
        await asyncio.wait([recording])
        assert shown == b"last words"

    asyncio.run(story())
    assert read(tmp_path)[2] == b"last words"
