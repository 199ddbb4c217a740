# SPDX-License-Identifier: Apache-2.0
"""The tables of the page of settings, written from the table in the program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chslurm.siteconfig import LIMITS, SETTINGS, ReferenceRow, reference


def fill_tables(page: str) -> str:
    """Return the page with its tables as they are to be: between a comment with their name and one that says end."""
    for name, rows in (("settings", reference(SETTINGS)), ("limits", reference(LIMITS))):
        start, end = f"<!-- {name} -->\n", "\n<!-- end -->"
        before, _, rest = page.partition(start)
        _, found, after = rest.partition(end)
        assert found, f"no place for the table of {name}"
        lines = "".join(f"{line}\n" for line in _render(rows))
        page = f"{before}{start}\n{lines}{end}{after}"
    return page


def _render(rows: Sequence[ReferenceRow]) -> Iterator[str]:
    limits = not any(row.option or row.variable for row in rows)
    if limits:
        yield "| limit | meaning | takes | without it |"
        yield "|---|---|---|---|"
    else:
        yield "| setting | meaning | takes | default | option | variable | bounded by |"
        yield "|---|---|---|---|---|---|---|"
    for row in rows:
        cells = [f"`{row.name}`", row.meaning, row.type, row.default]
        if not limits:
            cells += [f"`{text}`" if text else "" for text in (row.option, row.variable, row.limited_by)]
        yield "| " + " | ".join(cells) + " |"
