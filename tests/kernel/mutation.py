# SPDX-License-Identifier: Apache-2.0
"""Filters broken in every way: each rule deleted, each chain let everything pass, each table gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from firing import FiringRange, Shot


@dataclass(frozen=True, slots=True)
class Change:
    """Something broken in the rules: `opens` says that filters have become fewer by it."""

    what: str
    text: str
    opens: bool
    may_lose: frozenset[str] = frozenset()


def find_leaks(range_: FiringRange, forbidden: Sequence[Shot]) -> dict[str, frozenset[str]]:
    """Return where what is forbidden arrives all the same."""
    allowed = {shot.name: shot.reaches for shot in forbidden}
    return {name: ends - allowed[name] for name, ends in range_.fire(forbidden).items() if ends - allowed[name]}


def find_idle_rules(
    range_: FiringRange,
    changes: Sequence[Change],
    forbidden: Sequence[Shot],
    make_rightful: Callable[[], Sequence[Shot]],
    restore: Callable[[], None],
) -> list[str]:
    """Make each change to whole filters; assert that the forbidden stays out, also of what is right.

    And that what is right passes wherever filters have become fewer. Return rules that nothing right needs. `bare` is
    an end where nothing must ever arrive.
    """
    right = {shot.name: shot.reaches for shot in make_rightful()}
    idle = []
    for change in changes:
        restore()
        range_.nft(change.text)
        leaks = find_leaks(range_, forbidden)
        assert leaks == {}, change
        found = range_.fire(make_rightful())  # new ones, which nobody tracks as known
        assert [name for name, ends in found.items() if "bare" in ends] == [], change
        lost = {name for name, ends in found.items() if ends < right[name]}
        if change.opens:
            assert lost <= change.may_lose, change
        elif not lost:
            idle.append(change.what)
    restore()
    return idle


def make_changes(
    range_: FiringRange, not_needed: tuple[str, ...], may_lose: Mapping[str, frozenset[str]]
) -> Iterator[Change]:
    """Every way to break the rules that are loaded. Loaded anew, they have the same handles.

    `not_needed` are the beginnings of rules that let pass what is not among the right shots; without a table of
    `may_lose` some of these can't arrive.
    """
    for table in range_.read_rules("table"):
        name = f"{table['family']} {table['name']}"
        yield Change(f"no table {name}", f"delete table {name}", True, may_lose.get(name, frozenset()))
    for chain in range_.read_rules("chain"):
        if chain.get("type") == "filter":
            place = f"{chain['family']} {chain['table']} {chain['name']}"
            yield Change(f"{place} lets all pass", f"insert rule {place} accept", opens=True)
    for rule in range_.read_rules("rule"):
        place = f"{rule['family']} {rule['table']} {rule['chain']}"
        words = find_words(range_.list_table(rule["family"], rule["table"]), rule["handle"])
        opens = words.endswith((" drop", " notrack")) or " reject" in words
        opens = opens or f"{place}: {words}".startswith(not_needed)
        yield Change(f"{place}: {words}", f"delete rule {place} handle {rule['handle']}", opens)


def find_words(table: list[str], handle: int) -> str:
    """The rule of this handle as people read it."""
    heads = ("table ", "set ", "chain ")
    found = [line for line in table if line.endswith(f" # handle {handle}") and not line.startswith(heads)]
    (words,) = (line.partition(" # handle ")[0] for line in found)
    return words
