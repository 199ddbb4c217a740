# SPDX-License-Identifier: Apache-2.0
"""From what was sent and seen to a verdict for each row of `chslurm net check`, and its words.

An attack is `ok` when nothing of it arrived anywhere, and when in the control all of it did: else nobody knows whether
it would have. Then the control has failed, and with it the check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from chslurm.filters import Family
from chslurm.isolation import find_rows_not_tried
from chslurm.plan import NetworkKind
from chslurm.scene import Control, Probe, Row, Scene, Way


class Verdict(StrEnum):
    """What came of a row."""

    OK = "ok"
    FAILED = "FAILED"
    CONTROL_FAILED = "control failed"
    NOT_TRIED = "not tried"


@dataclass(slots=True)
class Pass:
    """One time through all probes: who saw which. Senders do not see their own."""

    number: int
    without: tuple[Family, ...]
    probes: tuple[Probe, ...]
    seen: dict[str, set[int]] = field(default_factory=dict)  # by witness
    answered: set[int] = field(default_factory=set)  # doors and pings
    carried: dict[str, int] = field(default_factory=dict)  # by node: frames that came to its gateway, where they count
    obstacle: str = ""  # why there was no second user

    @property
    def arrived(self) -> set[int]:
        """Probes that came to anybody."""
        return self.answered.union(*self.seen.values())

    @property
    def frames(self) -> int:
        """How many frames guests have sent that none may send."""
        return sum(probe.way is Way.FRAME for probe in self.probes)


def is_tried(probe: Probe, number: int) -> bool:
    """Say whether a probe is in pass `number`: later ones leave out what takes long and has no filters to do with."""
    return number == 0 or (probe.row.control is not Control.ITSELF and probe.way not in (Way.NODE_DOOR, Way.PING))


class Line(msgspec.Struct, frozen=True):
    """One row of the table, with its verdict."""

    id: str
    tried: str
    address: str
    sent: int
    arrived: str
    control: str
    verdict: Verdict
    reason: str = ""


GATEWAYS = Row("S8", "any frame of S1 to S9: what comes to gateways, counted")
ROOTS = "filters are root's"
"""In the place of a control: it takes a job with a network that has none."""

Counts = dict[tuple[str, str, str], tuple[int, int]]
"""By id, words and address of a row: how many probes arrived, and how many should have."""


def judge(scene: Scene, passes: Sequence[Pass]) -> tuple[Line, ...]:
    """Return the table. The first pass counts; of those that follow, the one without all families is the control."""
    first, control = passes[0], next((one for one in passes[1:] if set(one.without) == set(Family)), None)
    rows = _rows(first.probes)
    lost = [row for row in rows if row.id == "S10" and first.obstacle]
    lines = [_judge_row(scene, row, first, control) for row in rows if row not in lost]
    lines += [_not_tried(replace(row, why_not=first.obstacle)) for row in lost]
    lines += [_judge_gateways(first)] if first.carried else []
    lines += [_judge_pass(one) for one in passes[1:] if one is not control]
    lines += [_not_tried(row) for row in find_rows_not_tried(scene)]
    return sort_lines(lines)


def sort_lines(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Return the lines of a table in their order."""
    return tuple(sorted(lines, key=lambda line: (line.id[0] != "L", line.id[0], int(line.id[1:]))))


def count_controls(one: Pass) -> Counts:
    """Return what a pass without any filter has shown of each row that has to arrive then."""
    counts: Counts = {}
    for row in _rows(one.probes):
        if row.control is Control.OFF:
            tries = {probe.number for probe in one.probes if probe.row == row and probe.controlled}
            counts[row.id, row.tried, row.state] = len(tries & one.arrived), len(tries)
    if one.carried:
        key = (GATEWAYS.id, GATEWAYS.tried, GATEWAYS.state)
        counts[key] = min(sum(one.carried.values()), one.frames), one.frames
    return counts


def render_verdict(lines: Sequence[Line]) -> str:
    """Return the last line of the table: `28 rows: all ok`, or which are not."""
    counts = Counter(line.verdict for line in lines)
    bad = dict.fromkeys(line.id for line in lines if line.verdict in (Verdict.FAILED, Verdict.CONTROL_FAILED))
    left = counts[Verdict.NOT_TRIED]
    rest = f", {left} not tried" if left else ""
    told = [f"{counts[kind]} {kind}" for kind in (Verdict.FAILED, Verdict.CONTROL_FAILED) if counts[kind]]
    return f"{len(lines)} rows: " + (f"{', '.join(told)}: {', '.join(bad)}" if bad else "all ok") + rest


def is_good(lines: Iterable[Line]) -> bool:
    """Say whether nothing has failed."""
    return all(line.verdict in (Verdict.OK, Verdict.NOT_TRIED) for line in lines)


def render_lines(lines: Iterable[Line]) -> list[tuple[str, ...]]:
    """Return the cells of the table, without headings."""
    return [
        (line.id, line.tried, line.address, str(line.sent), line.arrived, line.control, _render_verdict(line))
        for line in lines
    ]


HEADINGS = ("row", "tried", "address", "sent", "arrived", "control", "verdict")


def _render_verdict(line: Line) -> str:
    return f"{line.verdict}: {line.reason}" if line.reason else str(line.verdict)


def _rows(probes: Iterable[Probe]) -> list[Row]:
    return list(dict.fromkeys(probe.row for probe in probes))


def _not_tried(row: Row) -> Line:
    return Line(row.id, row.tried, "", 0, "", "", Verdict.NOT_TRIED, row.why_not)


def _judge_row(scene: Scene, row: Row, first: Pass, control: Pass | None) -> Line:
    attacks = {probe.number for probe in first.probes if probe.row == row and probe.way is not Way.NODE_DOOR}
    if row.control is Control.GUEST:
        attacks = {probe.number for probe in first.probes if probe.row == row}
    arrived = _where(first, attacks)
    if row.control is Control.ITSELF:
        missing = attacks - first.arrived
        reason = f"{len(missing)} did not arrive" if missing else ""
        told = f"{len(attacks - missing)} of {len(attacks)}"
        return Line(row.id, row.tried, "", len(attacks), told, "", Verdict.FAILED if missing else Verdict.OK, reason)
    told, works = _judge_control(scene, row, first, control)
    verdict, reason = Verdict.OK, ""
    if arrived:
        verdict, reason = Verdict.FAILED, "it arrived"
    elif works is False:
        verdict, reason = Verdict.CONTROL_FAILED, "the same does not arrive where it should"
    return Line(row.id, row.tried, row.state, len(attacks), arrived or "nowhere", told, verdict, reason)


def _judge_control(scene: Scene, row: Row, first: Pass, control: Pass | None) -> tuple[str, bool | None]:
    """Return the words of the control, and whether it works; None: there was none."""
    if row.control is Control.NODE:
        tries = {probe.number for probe in first.probes if probe.row == row and probe.way is Way.NODE_DOOR}
        return _count(tries & first.answered, tries, row.control)
    if row.control is Control.GUEST:
        doors = {probe.address for probe in first.probes if probe.row == row and probe.way is Way.NODE_DOOR}
        from_guests = [probe for probe in first.probes if probe.way is Way.DOOR and probe.row.control is Control.ITSELF]
        opened = {probe.address for probe in from_guests if probe.number in first.answered}
        return _count(doors & opened, doors, row.control)
    if control is None:
        return (ROOTS if scene.network is NetworkKind.SITE else "no second pass"), None
    tries = {probe.number for probe in control.probes if probe.row == row and probe.controlled}
    return _count(tries & control.arrived, tries, row.control)


def _count(found: set[int] | set[str], tries: set[int] | set[str], how: Control) -> tuple[str, bool]:
    return f"{how}: {len(found)} of {len(tries)}", bool(tries) and len(found) == len(tries)


def _judge_gateways(one: Pass) -> Line:
    """Nobody but root can look at gateways, but anybody sees how many frames they get."""
    told = ", ".join(f"gateway of {name} ({count})" for name, count in one.carried.items() if count)
    verdict, reason = (Verdict.FAILED, "it arrived") if told else (Verdict.OK, "")
    return Line(GATEWAYS.id, GATEWAYS.tried, GATEWAYS.state, one.frames, told or "nowhere", ROOTS, verdict, reason)


def _judge_pass(one: Pass) -> Line:
    """Without a family of filters nothing arrives either: what is forbidden is forbidden twice."""
    attacks = {probe.number for probe in one.probes if is_tried(probe, one.number)}
    arrived = _where(one, attacks)
    tried = f"all of S1 to S9 without the filters of family {', '.join(one.without)}"
    verdict = Verdict.FAILED if arrived else Verdict.OK
    reason = f"rows {', '.join(_rows_of(one, attacks & one.arrived))}" if arrived else ""
    return Line("S12", tried, "all three", len(attacks), arrived or "nowhere", "as above", verdict, reason)


def _rows_of(one: Pass, numbers: set[int]) -> list[str]:
    return sorted({probe.row.id for probe in one.probes if probe.number in numbers})


def _where(one: Pass, attacks: set[int]) -> str:
    """Where of these probes some arrived: `guest 1 (3), answered (1)`; empty when none did."""
    counts = {witness: len(attacks & seen) for witness, seen in one.seen.items()}
    counts["answered"] = len(attacks & one.answered)
    return ", ".join(f"{witness} ({count})" for witness, count in counts.items() if count)
