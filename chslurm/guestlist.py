# SPDX-License-Identifier: Apache-2.0
"""Guests as people name them: `0`, `chgu0`, and lists of both, `0,2-3`."""

from __future__ import annotations

import re

from chslurm.addresses import MAX_GUESTS
from chslurm.errors import UsageError
from chslurm.plan import Plan
from chslurm.units import quote

_PART = re.compile(r"(?:chgu)?([0-9]{1,9})(?:-(?:chgu)?([0-9]{1,9}))?", re.ASCII)


def parse_guest(text: str) -> int:
    """Return the guest's number of `0` or `chgu0`. Raises UsageError."""
    found = _PART.fullmatch(text)
    if found is None or found[2] is not None:
        raise UsageError(f"guest {quote(text)}: not a guest", hint="use its number or name, as 0 or chgu0")
    return int(found[1])


def parse_guests(text: str) -> tuple[int, ...]:
    """Return the guests' numbers of a list, in its order, each once. Raises UsageError."""
    guests: dict[int, None] = {}
    for part in text.split(","):
        found = _PART.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < MAX_GUESTS:
            raise UsageError(f"guests {quote(text)}: can't read {quote(part)}", hint="use numbers or names, as 0,2-3")
        guests |= dict.fromkeys(range(first, last + 1))
    return tuple(guests)


def check_guests(plan: Plan, *guests: int) -> None:
    """Raise UsageError for a guest that the cluster does not have."""
    for guest in guests:
        if not 0 <= guest < len(plan.guests):
            has = f"0 to {len(plan.guests) - 1}" if len(plan.guests) > 1 else "0 only"
            raise UsageError(f"guest {guest}: not in this cluster", hint=f"it has {has}")
