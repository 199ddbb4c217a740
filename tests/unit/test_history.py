# SPDX-License-Identifier: Apache-2.0
"""The history in an image: what is written is read again, and what a guest wrote there does no harm."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from chslurm.history import (
    HISTORY_BYTES,
    Deed,
    Entry,
    make_commit_entry,
    parse_history,
    render_entry,
    render_history,
)
from chslurm.plan import Plan

BUILT = Entry(Deed.BUILT, "2026-01-02T03:04:05+00:00", "me on here", "1.0.0", "6.1.0-1-amd64")
FIELDS = sorted(Entry.__dataclass_fields__)
MAGIC = b"CHSLURM-HISTORY 1\n"


def make_entry(number: int, plan_of: Callable[..., Plan]) -> Entry:
    now = datetime(2026, 1, 3, 4, 5, number % 60, tzinfo=UTC)
    return make_commit_entry(plan_of(), number, now=now, by="me on here", version="1.0.0", kernel="6.1.0-2-amd64")


def test_what_was_written_is_read(plan_of: Callable[..., Plan]) -> None:
    entries = (BUILT, make_entry(1, plan_of), make_entry(2, plan_of))
    text = render_history(entries)
    assert len(text) % 65536 == 0
    assert parse_history(text) == entries
    assert parse_history(text + b"x" * (HISTORY_BYTES - len(text))) == entries
    assert entries[1].source == plan_of().image.layers[0]


def test_what_people_read(plan_of: Callable[..., Plan]) -> None:
    assert render_entry(BUILT) == (
        "2026-01-02T03:04:05+00:00, built, by me on here, with chslurm 1.0.0, kernel 6.1.0-1-amd64"
    )
    assert render_entry(make_entry(2, plan_of)) == (
        "2026-01-03T04:05:02+00:00, committed, by me on here, with chslurm 1.0.0, from guest 2 of /home/user/charlie,"
        " to /images/a,b.qcow2 (0 MiB, inode 4), kernel 6.1.0-2-amd64"
    )


def test_when_there_is_too_little_room_the_oldest_go_but_the_first(plan_of: Callable[..., Plan]) -> None:
    entries = [BUILT, *(make_entry(number, plan_of) for number in range(1, 5000))]
    text = render_history(entries)
    assert len(text) == HISTORY_BYTES
    assert text.endswith(b"\0")
    kept = parse_history(text)
    assert kept[0] == BUILT
    assert kept[1:] == tuple(entries[len(entries) - len(kept) + 1 :])
    assert len(kept) > 1000


def test_nothing_is_no_history() -> None:
    assert parse_history(b"") == ()
    assert parse_history(bytes(HISTORY_BYTES)) == ()
    assert parse_history(MAGIC) == ()
    assert parse_history(b"CHSLURM-HISTORY 2\n" + msgspec.json.encode(BUILT)) == ()


def test_what_is_no_entry_is_left_out_and_the_rest_is_fit_for_a_terminal() -> None:
    evil = msgspec.to_builtins(BUILT)
    evil["by"] = "\x1b[2J\u202eme\n" + "x" * 1000
    lines = [b"[" * 10000, b"{}", b"\xff", msgspec.json.encode(evil), b'{"deed":"burnt"}', b'"' + b"x" * 20000 + b'"']
    (entry,) = parse_history(MAGIC + b"\n".join(lines))
    assert entry.by.startswith("?[2J?me?xxx")
    assert len(entry.by) == 200
    assert "\n" not in render_entry(entry)


@given(st.binary(max_size=300))
def test_any_bytes_do_no_harm(data: bytes) -> None:
    for entry in parse_history(MAGIC + data):
        assert render_entry(entry).isprintable()


@given(st.dictionaries(st.sampled_from(FIELDS), st.text() | st.integers(-9, 1 << 62) | st.none()))
def test_any_object_does_no_harm(fields: dict[str, object]) -> None:
    line = msgspec.json.encode(msgspec.to_builtins(BUILT) | fields)
    for entry in parse_history(MAGIC + line):
        assert render_entry(entry).isprintable()
        assert parse_history(render_history([entry])) == (entry,)
