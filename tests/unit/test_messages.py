# SPDX-License-Identifier: Apache-2.0
"""Lines between head, hosts and guests: bounded, typed, and safe against whoever writes them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chslurm.messages import (
    EVENT_MAX_BYTES,
    GUEST_WORD_MAX_BYTES,
    Event,
    EventKind,
    GuestOrder,
    GuestWordKind,
    Order,
    OrderKind,
    decode_event,
    decode_guest_word,
    decode_order,
    encode,
    encode_event,
)


@given(st.text(max_size=3000))
def test_an_event_is_one_short_line_and_comes_back(text: str) -> None:
    event = Event(EventKind.NODE_NOTE, 3, text=text)
    line = encode_event(event)
    assert len(line) <= EVENT_MAX_BYTES
    assert line.count(b"\n") == 1
    back = decode_event(line)
    assert back is not None
    assert back.text == text or (back.text.endswith("…") and text.startswith(back.text[:-1]))


def test_an_order_comes_back() -> None:
    order = Order(OrderKind.POWER_DOWN, guests=(1, 2))
    assert decode_order(encode(order)) == order


def test_an_order_for_a_guest_says_what_it_is_about_and_no_more() -> None:
    assert encode(GuestOrder(op="resize", rows=24, columns=80)) == b'{"op":"resize","rows":24,"columns":80}\n'
    assert encode(GuestOrder(op="boot")) == b'{"op":"boot"}\n'


@given(st.binary(max_size=2000))
def test_any_bytes_make_a_message_or_none(line: bytes) -> None:
    decode_event(line)
    decode_order(line)
    decode_guest_word(line)


def test_words_of_srun_are_no_events() -> None:
    assert decode_event(b"srun: error: cn002: task 1: Killed\n") is None
    assert decode_event(b'{"kind":"node_up","host":1}{"kind":"node_up"') is None


def test_what_a_guest_says_is_made_harmless() -> None:
    word = decode_guest_word(b'{"event":"failed","text":"\\u001b[2J' + b"x" * 1000 + b'","status":7,"more":[]}')
    assert word is not None
    assert word.event is GuestWordKind.FAILED
    assert word.text.isprintable()
    assert len(word.text) == 200


def test_what_a_guest_may_not_say() -> None:
    for line in (
        b'{"event":"node_failed"}',
        b'{"event":"ready","status":"0"}',
        b'{"event":"ready","text":"' + b"x" * GUEST_WORD_MAX_BYTES + b'"}',
        b"[" * 4000,
    ):
        assert decode_guest_word(line) is None
