# SPDX-License-Identifier: Apache-2.0
"""Files read while others write them, as `tail -F` does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.host import follow
from chslurm.host.follow import CHUNK_BYTES, FollowedFile, read_journal
from chslurm.messages import Event, EventKind, encode_event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0_console.out"


def test_what_is_added_comes_once(path: Path) -> None:
    file = FollowedFile(path)
    assert file.read() == (b"", False)
    path.write_bytes(b"one")
    assert [file.read(), file.read()] == [(b"one", False), (b"", False)]
    with path.open("ab") as writer:
        writer.write(b"two")
    assert file.read() == (b"two", False)


def test_a_file_that_is_emptied_or_replaced_begins_anew(path: Path) -> None:
    path.write_bytes(b"the first cluster")
    file = FollowedFile(path)
    file.read()
    os.truncate(path, 0)
    assert file.read() == (b"", True)
    assert file.read() == (b"", False)
    with path.open("ab") as writer:
        writer.write(b"second")
    assert file.read() == (b"second", False)
    path.with_name("new").write_bytes(b"the third, which is longer")
    path.with_name("new").rename(path)
    assert file.read() == (b"the third, which is longer", True)
    path.unlink()
    assert file.read() == (b"", False)


def test_a_large_file_comes_in_chunks(path: Path) -> None:
    path.write_bytes(b"x" * (CHUNK_BYTES + 1))
    file = FollowedFile(path)
    assert [len(file.read()[0]) for _ in range(3)] == [CHUNK_BYTES, 1, 0]


def test_it_is_known_how_much_is_new(path: Path) -> None:
    file = FollowedFile(path)
    assert file.measure_new() == 0
    path.write_bytes(b"one two")
    assert file.measure_new() == 7
    assert (file.read(4), file.measure_new()) == ((b"one ", False), 3)
    path.write_bytes(b"3")
    assert (file.measure_new(), file.read(9)) == (1, (b"3", True))
    path.with_name("new").write_bytes(b"four")
    path.with_name("new").rename(path)
    assert file.measure_new() == 4


def test_links_folders_and_pipes_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        file = FollowedFile(tmp_path / name)
        file.skip_to_last(1)
        assert file.measure_new() == 0
        assert file.read() == (b"", False)
        assert list(read_journal(tmp_path / name)) == []


@given(st.lists(st.sampled_from([b"\n", b"a", b"bc\n", b"ddd"]), max_size=12).map(b"".join), st.integers(0, 6))
def test_the_last_lines_are_those_of_tail(tmp_path_factory: pytest.TempPathFactory, data: bytes, lines: int) -> None:
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(data)
    file, read = FollowedFile(path), b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "CHUNK_BYTES", 3)
        file.skip_to_last(lines)
        while part := file.read()[0]:
            read += part
    assert read == b"".join(data.splitlines(keepends=True)[-lines:] if lines else [])


def test_pulses_are_left_out_of_a_journal(path: Path) -> None:
    pulse = encode_event(Event(EventKind.PULSE, 7))
    others = [
        encode_event(Event(EventKind.NODE_UP, 7)),
        *(encode_event(Event(EventKind.GUEST_STAGE, 7, 0, text=text)) for text in ("pulse", '"kind":"pulse"')),
    ]
    path.write_bytes(pulse * 1000 + (pulse * 2).join(others))
    assert list(read_journal(path)) == others


def test_lines_of_any_length_end(path: Path) -> None:
    path.write_bytes(b"one\n" + b"x" * 200000 + b"\nlast")
    lines = list(read_journal(path))
    assert (lines[0], lines[-1], b"".join(lines)) == (b"one\n", b"last", path.read_bytes())
    assert max(map(len, lines)) == 65536
    assert list(read_journal(path.with_name("nothing"))) == []
