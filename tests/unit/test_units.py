# SPDX-License-Identifier: Apache-2.0
"""Numbers as people write them, and as they should not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.errors import UsageError
from chslurm.units import (
    MAX_SIZE_MIB,
    parse_count,
    parse_size_bytes,
    parse_size_mib,
    parse_time_limit,
    quote,
    render_duration,
    render_size,
)

JUNK = [
    "",
    " ",
    "4G;",
    "-1",
    "-4G",
    "NaN",
    "inf",
    "1e3",
    "0x10",
    "1.5G",
    "4 G",
    "4\n",
    "٤",
    "G",
    "4GG",
    "4P",
    "1" * 40,
    "~",
    "*",
]


@pytest.mark.parametrize(
    ("text", "size_mib"),
    [("1", 1), ("512", 512), ("512M", 512), ("4G", 4096), ("4g", 4096), ("2GiB", 2048), ("2GB", 2048), ("1T", 1 << 20)],
)
def test_size(text: str, size_mib: int) -> None:
    assert parse_size_mib(text, "--ram") == size_mib
    assert parse_size_bytes(text, "--ram") == size_mib * 1024 * 1024


@pytest.mark.parametrize("text", [*JUNK, "0", str(2**63), "9223372036854775807T"])
def test_what_is_no_size_is_refused_by_name_and_value(text: str) -> None:
    with pytest.raises(UsageError, match="--ram") as error:
        parse_size_mib(text, "--ram")
    assert error.value.hint
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("text", [*JUNK, "0", "4G", str(2**63)])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="-n"):
        parse_count(text, "-n")


def test_limits_of_a_count_count() -> None:
    assert parse_count("16", "--dir", most=16) == 16
    with pytest.raises(UsageError, match="use 1 to 16"):
        parse_count("17", "--dir", most=16)


@pytest.mark.parametrize(
    ("text", "limit_s"),
    [
        ("90", 90 * 60),
        ("1:30", 90),
        ("1:00:00", 3600),
        ("2-0", 2 * 86400),
        ("1-12:30", 86400 + 12 * 3600 + 30 * 60),
        ("1-0:0:1", 86401),
    ],
)
def test_time_limit(text: str, limit_s: float) -> None:
    assert parse_time_limit(text, "--time-limit") == limit_s


@pytest.mark.parametrize("text", [*JUNK, "0", "0:00", "1:2:3:4", "1-", "-1", "1-2-3", "999999999-0", "UNLIMITED"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--time-limit"):
        parse_time_limit(text, "--time-limit")


@given(st.text())
def test_parsers_answer_or_refuse_and_never_break(text: str) -> None:
    for parse in (parse_count, parse_size_mib, parse_time_limit):
        try:
            number = parse(text, "--option")
        except UsageError as error:
            assert str(error).isprintable()  # noqa: PT017
        else:
            assert number > 0


@given(st.integers(min_value=1, max_value=MAX_SIZE_MIB))
def test_a_plain_number_is_mib(size_mib: int) -> None:
    assert parse_size_mib(str(size_mib), "--ram") == size_mib


def test_rendering() -> None:
    assert [render_size(mib) for mib in (0, 1000, 1024, 3584, 1 << 20)] == [
        "0 MiB",
        "1000 MiB",
        "1 GiB",
        "3.5 GiB",
        "1 TiB",
    ]
    assert [render_duration(s) for s in (0, 59.9, 3661, 90000)] == ["0:00:00", "0:00:59", "1:01:01", "25:00:00"]


def test_a_megabyte_is_quoted_in_one_short_line() -> None:
    assert len(quote("x\n" * 1_000_000)) < 500
