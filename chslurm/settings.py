# SPDX-License-Identifier: Apache-2.0
"""Settings of root's parts: lines of `KEY=VALUE`, as a shell would read them, of which nothing is run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chslurm.errors import UsageError
from chslurm.units import quote

_SETTING = re.compile(
    r"([A-Za-z_][A-Za-z0-9_]*)=(?:\"([^\"$`\\]*)\"|'([^']*)'|([^\s\"'$`\\#;&|<>()*?\[\]{}~!]*))\s*(?:\s#.*)?"
)


def parse_lines(text: str, name: str, keys: Sequence[str]) -> dict[str, str]:
    """Return the values of `KEY=VALUE` lines. Raises UsageError for what is more than that, and for other keys."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _SETTING.fullmatch(line.strip())
        if not found or not line.replace("\t", " ").isprintable():
            hint = "write KEY=VALUE; nothing in this file is run"
            raise UsageError(f"{name} line {number}: {quote(line)}: not a setting", hint=hint)
        key, value = found[1], next((part for part in found.groups()[1:] if part is not None), "")
        if key not in keys:
            known = f"{', '.join(keys[:-1])} and {keys[-1]}"
            raise UsageError(f"{name} line {number}: {quote(key)}: unknown", hint=f"known are {known}")
        if key in values:
            raise UsageError(f"{name} line {number}: {key} is set twice", hint="keep one of them")
        values[key] = value
    return values
