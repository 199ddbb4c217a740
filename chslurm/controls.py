# SPDX-License-Identifier: Apache-2.0
"""What came of a check of a network, as programs have it; and the control of one, which another job has made.

Filters of root's can't be taken away for a check. So the same is tried once more in a network that root has made
without any, and what arrived there says of each row of the first table whether it was worth anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chslurm.errors import UsageError
from chslurm.verdicts import ROOTS, Counts, Line, Verdict, is_good

_IN_CONTROL = "open network"


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of a check, as `run/netcheck.json` has it."""

    good: bool
    cluster_id: str
    hosts: tuple[str, ...]
    guests: int
    short: bool
    rows: tuple[Line, ...]
    taps: bool = False  # there were no guests, but what came out of their TAPs
    control_hosts: tuple[str, ...] = ()  # where the control was made, if another job has


def report_to_json(report: Report) -> bytes:
    """Return the report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def parse_check(text: bytes, name: str) -> Report:
    """Return the report of a check that still has no control. Raises UsageError for any other."""
    try:
        report = msgspec.json.decode(text, type=Report)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"--control-for {name}: no report of a check: {error}") from error
    if not any(line.control == ROOTS for line in report.rows):
        hint = "give the netcheck.json of a check with --network site in a job"
        raise UsageError(f"--control-for {name}: no row of it takes a control", hint=hint)
    return report


def check_alike(check: Report, name: str, *, host_ct: int, guests: int, short: bool, taps: bool = False) -> None:
    """Raise UsageError when a control of this size is none for that check."""
    theirs = (len(check.hosts), check.guests, check.short, check.taps)
    if theirs != (host_ct, guests, short, taps):
        raise UsageError(
            f"--control-for {name}: it was made with {_describe(*theirs)}, this is one with "
            f"{_describe(host_ct, guests, short, taps)}",
            hint="make both alike",
        )


def add_controls(check: Report, counts: Counts, hosts: Sequence[str]) -> Report:
    """Return the report with what the control has shown: a row is worth something if all of it arrived there."""
    rows = tuple(_add(line, counts.get((line.id, line.tried, line.address))) for line in check.rows)
    return msgspec.structs.replace(check, good=is_good(rows), rows=rows, control_hosts=tuple(hosts))


def _add(line: Line, count: tuple[int, int] | None) -> Line:
    if line.control != ROOTS:
        return line
    arrived, sent = count or (0, 0)
    told = f"{_IN_CONTROL}: {arrived} of {sent}" if count else f"{_IN_CONTROL}: not tried"
    if line.verdict is Verdict.OK and not 0 < arrived == sent:
        reason = "the same does not arrive where it should"
        return msgspec.structs.replace(line, control=told, verdict=Verdict.CONTROL_FAILED, reason=reason)
    return msgspec.structs.replace(line, control=told)


def _describe(host_ct: int, guests: int, short: bool, taps: bool) -> str:
    words = [f"{host_ct} nodes", f"{guests} guests", *(["--short"] if short else []), *(["--taps"] if taps else [])]
    return ", ".join(words)
