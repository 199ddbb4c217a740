# SPDX-License-Identifier: Apache-2.0
"""Numbers, sizes and times as people write them.

A plain size is MiB, as in QEMU's `-m` and SLURM's `--mem`; the suffixes M, G and T (`MB`, `MiB`...) are powers of 1024.
Times take the forms of SLURM's `--time`. Every parser takes the name of what it reads (an option, a variable), so that
an error can say where the bad value stood.
"""

from __future__ import annotations

import re

from chslurm.errors import UsageError

MAX_SIZE_MIB = 1 << 30
"""1 PiB; more is a slip of the keyboard."""

LATEST_UNIX_S = 1e11
"""In the year 5138; a later time is damage, and more than calendars can do."""

_MIB_OF_UNIT = {"": 1, "M": 1, "G": 1 << 10, "T": 1 << 20}
_SIZE = re.compile(r"([0-9]{1,30})(?:([MGT])(?:I?B)?)?", re.ASCII | re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,30}", re.ASCII)
_TIME = re.compile(r"(?:([0-9]{1,9})-)?([0-9]{1,9})(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?", re.ASCII)


def parse_count(text: str, name: str, *, least: int = 1, most: int = 1 << 31) -> int:
    """Return the whole number in `text`. Raises UsageError when it is none or not in `least`...`most`."""
    if not _COUNT.fullmatch(text):
        raise UsageError(f"{name} {quote(text)}: not a whole number", hint=f"use {least} to {most}")
    number = int(text)
    if not least <= number <= most:
        raise UsageError(f"{name} {quote(text)}: out of range", hint=f"use {least} to {most}")
    return number


def parse_size_mib(text: str, name: str, *, least: int = 1) -> int:
    """Return a size in MiB. Raises UsageError when `text` is not a size or not in `least`...MAX_SIZE_MIB."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise UsageError(f"{name} {quote(text)}: not a size", hint="use MiB, or a number with M, G or T: 512M, 4G")
    size_mib = int(found[1]) * _MIB_OF_UNIT[(found[2] or "").upper()]
    if not least <= size_mib <= MAX_SIZE_MIB:
        allowed = f"use {render_size(least)} to {render_size(MAX_SIZE_MIB)}"
        raise UsageError(f"{name} {quote(text)}: out of range", hint=allowed)
    return size_mib


def parse_size_bytes(text: str, name: str) -> int:
    """Return a size in bytes; written as for `parse_size_mib`."""
    return parse_size_mib(text, name) << 20


def parse_time_limit(text: str, name: str) -> float:
    """Return a time in seconds: `MINUTES`, `M:SS`, `H:MM:SS`, `D-HH`, `D-HH:MM` or `D-HH:MM:SS`. Raises UsageError."""
    found = _TIME.fullmatch(text)
    if not found:
        raise UsageError(f"{name} {quote(text)}: not a time", hint="use minutes, H:MM:SS or D-HH:MM:SS")
    days, *parts = (None if part is None else int(part) for part in found.groups())
    numbers = [part for part in parts if part is not None]
    if days is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, minutes, seconds = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    limit_s = (((days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < limit_s < 1 << 31:
        raise UsageError(f"{name} {quote(text)}: out of range", hint="use 1 second to 68 years, or leave it out")
    return float(limit_s)


def render_size(size_mib: int) -> str:
    """Return a size for people: `512 MiB`, `3.5 GiB`."""
    for unit, mib in (("TiB", 1 << 20), ("GiB", 1 << 10)):
        if size_mib >= mib:
            return f"{size_mib / mib:.4g} {unit}"
    return f"{size_mib} MiB"


def render_count(number: int, what: str) -> str:
    """Return `1 core`, `2 cores`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def render_duration(duration_s: float) -> str:
    """Return a time as `H:MM:SS`."""
    minutes, seconds = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def quote(text: str, limit: int = 200) -> str:
    """Return `text` in quotes for a message, its middle left out when it is long."""
    short = text if len(text) <= limit else f"{text[: limit - 10]}...{text[-7:]}"
    return repr(short)
