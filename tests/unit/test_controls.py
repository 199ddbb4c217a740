# SPDX-License-Identifier: Apache-2.0
"""The control of a check that another job has made: which fits, and what becomes of the table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.controls import Report, add_controls, check_alike, parse_check, report_to_json
from chslurm.errors import UsageError
from chslurm.verdicts import ROOTS, Line, Verdict, is_good

ATTACK = Line("S2", "lies", "node's", 6, "nowhere", ROOTS, Verdict.OK)
MET = Line("L1", "pings", "", 4, "4 of 4", "", Verdict.OK)
DOORS = Line("S6", "doors", "its own", 4, "nowhere", "from the node: 4 of 4", Verdict.OK)
LEFT = Line("S12", "families", "", 0, "", "", Verdict.NOT_TRIED, "filters are root's")
KEY = (ATTACK.id, ATTACK.tried, ATTACK.address)


def check_of(*rows: Line, **more: Any) -> Report:
    return Report(is_good(rows), "0123456789abcdef", ("cn001", "cn002"), 4, False, rows, **more)


def test_a_row_whose_probes_all_arrived_in_the_control_is_worth_something() -> None:
    report = add_controls(check_of(MET, ATTACK, DOORS, LEFT), {KEY: (6, 6)}, ["cn003", "cn004"])
    assert report.good
    assert report.rows == (MET, msgspec.structs.replace(ATTACK, control="open network: 6 of 6"), DOORS, LEFT)
    assert (report.hosts, report.control_hosts) == (("cn001", "cn002"), ("cn003", "cn004"))


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({KEY: (5, 6)}, "5 of 6"),
        ({KEY: (0, 0)}, "0 of 0"),
        ({}, "not tried"),
        ({("S2", "lies", ""): (6, 6)}, "not tried"),
    ],
)
def test_a_control_in_which_not_all_arrives_has_failed(
    counts: dict[tuple[str, str, str], tuple[int, int]], told: str
) -> None:
    report = add_controls(check_of(MET, ATTACK), counts, ["cn003"])
    assert not report.good
    assert report.rows[0] == MET
    assert (report.rows[1].verdict, report.rows[1].control) == (Verdict.CONTROL_FAILED, f"open network: {told}")


@given(st.integers(0, 6))
def test_what_has_arrived_with_filters_stays_a_failure_whatever_the_control_says(arrived: int) -> None:
    failed = msgspec.structs.replace(ATTACK, arrived="chgu1 (1)", verdict=Verdict.FAILED, reason="it arrived")
    report = add_controls(check_of(failed), {KEY: (arrived, 6)}, ["cn003"])
    assert not report.good
    assert (report.rows[0].verdict, report.rows[0].reason) == (Verdict.FAILED, "it arrived")


def test_a_report_comes_back_as_it_was_written() -> None:
    report = check_of(MET, ATTACK)
    assert parse_check(report_to_json(report), "x") == report


@pytest.mark.parametrize("text", [b"", b"{}", b"[" * 60000, b"\xff", b'{"good": true}'])
def test_what_is_no_report_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError, match="--control-for x: no report of a check"):
        parse_check(text, "x")


def test_a_check_that_has_its_controls_takes_no_other() -> None:
    for done in (check_of(MET, DOORS), add_controls(check_of(MET, ATTACK), {KEY: (6, 6)}, ["cn003"])):
        with pytest.raises(UsageError, match="no row of it takes a control"):
            parse_check(report_to_json(done), "x")


@pytest.mark.parametrize("other", [{"host_ct": 1}, {"guests": 2}, {"short": True}, {"taps": True}])
def test_a_control_is_made_as_the_check_was(other: dict[str, Any]) -> None:
    alike: dict[str, Any] = {"host_ct": 2, "guests": 4, "short": False, "taps": False}
    check_alike(check_of(ATTACK), "x", **alike)
    with pytest.raises(UsageError, match="it was made with 2 nodes, 4 guests, this is one with"):
        check_alike(check_of(ATTACK), "x", **{**alike, **other})
