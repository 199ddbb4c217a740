# SPDX-License-Identifier: Apache-2.0
"""Guests as people name them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.addresses import MAX_GUESTS
from chslurm.errors import UsageError
from chslurm.guestlist import check_guests, parse_guest, parse_guests
from chslurm.plan import Plan


def test_a_guest_has_a_number_and_a_name() -> None:
    assert [parse_guest(text) for text in ("0", "chgu0", "17", "chgu017")] == [0, 0, 17, 17]


@pytest.mark.parametrize("text", ["", "-1", "chgu", "0-1", "0,1", " 0", "٣", "chgu0host", "1" * 10])
def test_what_is_no_guest_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a guest; use its number or name"):
        parse_guest(text)


def test_lists_keep_their_order() -> None:
    assert parse_guests("3,chgu1,0-2,chgu7-chgu8") == (3, 1, 0, 2, 7, 8)


@pytest.mark.parametrize("text", ["", ",", "1,", "2-1", "0-", "0-1-2", "0;1", f"0-{MAX_GUESTS}", "0-999999999"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"guests '.*': can't read '.*'; use numbers or names"):
        parse_guests(text)


@given(st.text())
def test_any_text_is_a_list_or_refused(text: str) -> None:
    guests: tuple[int, ...] = ()
    with suppress(UsageError):
        guests = parse_guests(text)
    assert len(set(guests)) == len(guests)


def test_guests_are_those_of_the_cluster(plan_of: Callable[..., Plan]) -> None:
    check_guests(plan_of(3), 0, 2)
    with pytest.raises(UsageError, match="guest 3: not in this cluster; it has 0 to 2"):
        check_guests(plan_of(3), 0, 3)
    with pytest.raises(UsageError, match="it has 0 only"):
        check_guests(plan_of(1), 1)
    with pytest.raises(UsageError, match="guest -1: not in this cluster"):
        check_guests(plan_of(1), -1)
