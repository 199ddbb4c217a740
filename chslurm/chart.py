# SPDX-License-Identifier: Apache-2.0
"""The picture of a timeline: one layout, as shapes, of which `page` makes SVG and `host/picture` PNG.

A row for each guest, below the heading of its node where most nodes have several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from chslurm.account import Account, GuestAccount, describe_end, describe_verdict, render_time
from chslurm.axis import GAP, Axis, choose_step, make_axis, render_moment
from chslurm.timeline import Doing, Span
from chslurm.units import render_count

WIDTH = 1000
MOST_ROWS = 400
"""More guests than these are not drawn: see `choose_rows`."""

MOST_PICTURED = 120
"""The same of a picture that is looked at whole; it takes as long to make as it has rows."""

_LEFT, _RIGHT = 168, 790
"""Between these is time; left of it are names, right of it ends."""

_CHARACTER = 0.58
"""The width of a character, of its height: what fits is guessed, as no font is known."""

_WORDS = {Doing.NETWORK: "net", Doing.SERVICES: "services", Doing.DONE: "done", Doing.SHUTDOWN: "down"}


@dataclass(frozen=True, slots=True)
class Rect:
    """A filled rectangle; `hint` is shown where a pointer rests on it."""

    x: float
    y: float
    width: float
    height: float
    style: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    x1: float
    y1: float
    x2: float
    y2: float
    style: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text on its baseline. `anchor`: which part of it is at x: start, middle or end."""

    x: float
    y: float
    text: str
    size: float
    style: str = "text"
    anchor: str = "start"


Shape = Rect | Line | Text


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture of `width` by `height`; later shapes lie on earlier ones."""

    width: float
    height: float
    title: str
    shapes: tuple[Shape, ...]


def choose_rows(guests: Sequence[GuestAccount], most: int = MOST_ROWS) -> list[GuestAccount]:
    """Return the guests that are drawn, in their order: all, or guest 0, those that failed, and some of the rest.

    Of the rest half are those that were the last to be ready, the others are taken evenly.
    """
    if len(guests) <= most:
        return list(guests)
    chosen = {guests[0].id: guests[0]}
    chosen |= {guest.id: guest for guest in [guest for guest in guests if guest.failed][: most // 2]}
    latest = sorted(guests, key=lambda guest: (guest.ready_s is not None, -(guest.ready_s or 0), guest.id))
    chosen |= {guest.id: guest for guest in latest[: (most - len(chosen)) // 2]}
    others = [guest for guest in guests if guest.id not in chosen]
    room = most - len(chosen)
    chosen |= {guest.id: guest for guest in (others[number * len(others) // room] for number in range(room))}
    return [chosen[number] for number in sorted(chosen)]


def draw_chart(account: Account, rows: Sequence[GuestAccount], *, headed: bool = False) -> Drawing:
    """Return the picture of these guests of a cluster; with `headed` it says itself which that is, and how it ended."""
    axis = make_axis(account, _LEFT, _RIGHT)
    height = _choose_height(len(rows))
    shapes: list[Shape] = []
    done = {span.what for guest in rows for span in guest.spans}
    top = 40.0
    if headed:
        shapes += _draw_heading(account, len(rows), 20)
        top += 32
    shapes += _draw_legend([doing for doing in Doing if doing in done], top - 26)
    shapes += _draw_phases(account, axis, top)
    bars: list[Shape] = []
    y = top + 30
    hosts = {host.name: host for host in account.hosts}
    grouped = len({guest.node for guest in rows}) * 2 <= len(rows)
    for node, members in groupby(rows, key=lambda guest: guest.node):
        guests = list(members)
        if grouped:
            y += 16
            bars.append(Text(8, y - 4, f"{node}: {_count_guests(len(guests), hosts[node].guests)}", 11, "head"))
        for guest in guests:
            bars += _draw_guest(
                guest, axis, y, height, account.running, alone=not grouped, joined_s=hosts[node].joined_s
            )
            y += height
    bottom = y + 4
    shapes += _draw_axis(axis, top + 22, bottom)
    shapes += bars
    shapes += _draw_breaks(axis, top, bottom)
    return Drawing(WIDTH, round(bottom + 24, 2), f"Timeline of {account.name}", tuple(shapes))


# -- time -------------------------------------------------------------------------------------------------------------


def _draw_axis(axis: Axis, top: float, bottom: float) -> Iterator[Shape]:
    for part in axis.parts:
        used = part.left - 100.0
        step_s = choose_step(part)
        for number in range(int(-(-part.start_s // step_s)), int(part.end_s // step_s) + 1):
            x = round(part.place(number * step_s), 2)
            yield Line(x, top, x, bottom, "grid")
            label = render_moment(number * step_s, step_s)
            half = len(label) * 11 * _CHARACTER / 2
            if x - half > used and (part is axis.parts[-1] or x + half < part.right + GAP):
                yield Text(x, bottom + 15, label, 11, "quiet", "middle")
                used = x + half + 4


def _draw_breaks(axis: Axis, top: float, bottom: float) -> Iterator[Shape]:
    """Gaps between parts: nothing is there."""
    for part in axis.parts[:-1]:
        yield Rect(part.right, top - 2, GAP, bottom - top + 2, "paper")
        for x in (part.right, part.right + GAP):
            yield Line(x, top, x, bottom, "break")


# -- rows -------------------------------------------------------------------------------------------------------------


def _draw_heading(account: Account, shown: int, y: float) -> Iterator[Shape]:
    """Which cluster it is and how it ended; on the right which job and when, and how many guests are left out."""
    verdict = describe_verdict(account)
    name = _cut(account.name, max(8, int(740 / (14 * _CHARACTER)) - len(verdict)))
    yield Text(8, y, f"{name}: {verdict}", 14, "head" if account.good else "bad")
    job = f"SLURM job {account.slurm_job_id}" if account.slurm_job_id else ""
    when = render_time(account.start_unix_s) if account.start_unix_s else account.created
    yield Text(WIDTH - 8, y, ", ".join(filter(None, [job, when])), 11, "quiet", "end")
    if shown < len(account.guests):
        yield Text(WIDTH - 8, y + 26, f"{_count_guests(shown, len(account.guests))} shown", 11, "quiet", "end")


def _draw_legend(kinds: Sequence[str], y: float) -> Iterator[Shape]:
    x = 8.0
    for kind in kinds:
        yield Rect(x, y - 9, 11, 11, name_style(kind))
        yield Text(x + 15, y, kind, 11)
        x += 15 + len(kind) * 11 * _CHARACTER + 16
    yield Line(x + 3, y - 10, x + 3, y + 3, "mark")
    yield Text(x + 10, y, "hosts joined", 11)
    x += 10 + 12 * 11 * _CHARACTER + 16
    yield from _draw_cross(x + 4, y - 4, 4)
    yield Text(x + 13, y, "lost, or job failed", 11)


def _draw_phases(account: Account, axis: Axis, y: float) -> Iterator[Shape]:
    yield Text(8, y + 11, "cluster", 11, "head")
    for number, span in enumerate(account.phases):
        left, right = axis.place(span.start_s), axis.place(span.end_s)
        yield Rect(left, y, max(right - left, 0.5), 15, f"phase{number % 2}", _hint(span))
        room = axis.find_room(span)
        if _fits(span.what, room):
            yield Text(room[0] + 4, y + 11, span.what, 10, "quiet")


def _draw_guest(
    guest: GuestAccount, axis: Axis, y: float, height: float, running: bool, *, alone: bool, joined_s: float | None
) -> Iterator[Shape]:
    size = min(11.0, height * 0.72)
    bad = guest.failed
    most = int((_LEFT - 16) / (size * _CHARACTER))
    label = f"{guest.name} on {guest.node}" if alone else guest.name
    yield Text(8 if alone else 20, y + height / 2 + size * 0.36, _cut(label, most), size)
    right, mark = float(_LEFT), None if joined_s is None else axis.place(joined_s)
    for span in guest.spans:
        left, right = axis.place(span.start_s), axis.place(span.end_s)
        if right - left >= 0.05:
            yield Rect(left, y + 1, round(right - left, 2), height - 2, name_style(span.what), _hint(span, guest))
        label = _WORDS.get(Doing(span.what), span.what)
        marked = mark is not None and left <= mark <= right
        if mark is not None and marked:
            yield Line(mark, y + 1, mark, y + height - 1, "mark")
        room = axis.find_room(span, mark if mark is not None and marked else 0.0)
        if height >= 14 and _fits(label, room):
            yield Text(room[0] + 4, y + height / 2 + 3.6, label, 10, f"on-{name_style(span.what)}")
    if bad:
        yield from _draw_cross(right + height / 4 + 3, y + height / 2, min(height / 4, 4))
    end = describe_end(guest, running=running)
    if end:
        words = _cut(end.removeprefix("lost: "), int((WIDTH - _RIGHT - 20) / (size * _CHARACTER)))
        yield Text(_RIGHT + 16, y + height / 2 + size * 0.36, words, size, "bad" if bad else "quiet")


def _draw_cross(x: float, y: float, half: float) -> Iterator[Shape]:
    for way in (half, -half):
        yield Line(round(x - half, 2), round(y - way, 2), round(x + half, 2), round(y + way, 2), "cross")


def _choose_height(rows: int) -> float:
    return next((height for most, height in ((12, 24.0), (40, 18.0), (120, 12.0)) if rows <= most), 10.0)


def name_style(what: str) -> str:
    """Return the style of what a guest is at."""
    return what.lower().replace(" ", "-")


def _hint(span: Span, guest: GuestAccount | None = None) -> str:
    words = f"{span.what}: {span.length_s:.2f} s, from {span.start_s:.2f} s on"
    if guest is None:
        return words
    if span.what == Doing.SERVICES and guest.stages:
        words += "; " + ", ".join(f"{stage.name} at {stage.at_s:.2f} s" for stage in guest.stages)
    return f"{guest.name} on {guest.node}: {words}"


def _count_guests(shown: int, all_ct: int) -> str:
    return render_count(all_ct, "guest") if shown == all_ct else f"{shown} of {render_count(all_ct, 'guest')}"


def _fits(label: str, room: tuple[float, float]) -> bool:
    return len(label) * 10 * _CHARACTER < room[1] - room[0] - 7


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
