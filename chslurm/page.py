# SPDX-License-Identifier: Apache-2.0
"""An account as one HTML file that needs nothing besides itself, and its chart as SVG.

All that is put into the page is escaped here, whoever wrote it; besides, the page forbids the browser to load or run
anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from string import Template

from chslurm.account import Account, Duration, GuestAccount, describe_end, describe_verdict, render_time
from chslurm.chart import Drawing, Line, Rect, Shape, choose_rows, draw_chart, name_style
from chslurm.units import render_count, render_size

_SHOWN_OPEN = 32
"""A table of more guests than these is closed at first."""


def render_page(account: Account, template: str) -> str:
    """Return the page; `template` has a $NAME for each part."""
    rows = choose_rows(account.guests)
    left_out = len(account.guests) - len(rows)
    few = (
        f"{len(rows)} of {len(account.guests)} guests are shown: guest 0, those that failed, those that were ready"
        " last, and some of the rest; chslurm report --json has all."
    )
    return Template(template).substitute(
        title=escape(account.name),
        verdict=f'<p class="verdict {_judge(account)}">{escape(describe_verdict(account))}</p>',
        text=f"<p>{escape(account.text)}</p>" if account.text else "",
        causes=_render_list("What may be why", account.causes),
        facts="\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _list_facts(account)),
        few=f"<p>{escape(few)}</p>" if left_out else "",
        chart=render_svg(draw_chart(account, rows)),
        warnings=_render_list("Warnings", account.warnings) + _render_list("Notes", account.notes),
        excerpts="".join(_render_excerpts(account)),
        durations="\n".join(_render_duration(account, duration) for duration in account.durations),
        open=' open="open"' if len(rows) <= _SHOWN_OPEN else "",
        guest_ct=str(len(rows)),
        guests="\n".join(_render_guest(guest, running=account.running) for guest in rows),
        made=escape(f"{render_time(account.made_unix_s)}, chslurm {account.version}"),
    )


def render_svg(drawing: Drawing) -> str:
    """Return a drawing as an SVG element; colours are those of the page's style sheet."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawing.width:g} {drawing.height:g}" role="img">'
    return "\n".join([head, f"<title>{escape(drawing.title)}</title>", *map(_render_shape, drawing.shapes), "</svg>"])


def _render_shape(shape: Shape) -> str:
    if isinstance(shape, Rect):
        place = f'x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:g}" height="{shape.height:g}"'
        hint = f"><title>{escape(shape.hint)}</title></rect>" if shape.hint else "/>"
        return f'<rect class="{shape.style}" {place}{hint}'
    if isinstance(shape, Line):
        return f'<path class="{shape.style}" d="M{shape.x1:g} {shape.y1:g}L{shape.x2:g} {shape.y2:g}"/>'
    anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
    place = f'x="{shape.x:g}" y="{shape.y:g}" font-size="{shape.size:g}"{anchor}'
    return f'<text class="{shape.style}" {place}>{escape(shape.text)}</text>'


def _judge(account: Account) -> str:
    return "open" if account.running else "good" if account.good else "bad"


def _list_facts(account: Account) -> Iterator[tuple[str, str]]:
    guests, hosts = account.guests, account.hosts
    slurm = f"SLURM {account.slurm_version}".strip() + f" job {account.slurm_job_id}" if account.slurm_job_id else ""
    sizes = _join(f"{render_count(guest.cores, 'core')}, {render_size(guest.ram_mib)}" for guest in guests)
    cores = sum(guest.cores for guest in guests)
    facts = [
        ("Cluster", f"{account.name} ({account.cluster_id})"),
        ("Where", f"{account.mode}, {slurm}" if slurm else account.mode),
        ("Started", render_time(account.start_unix_s) if account.start_unix_s else account.created),
        ("User", account.user),
        ("Job", account.job or "none: interactive"),
        ("Guests", f"{len(guests)}, each {sizes}"),
        ("Nodes", f"{len(hosts)}: {_join((host.name for host in hosts), most=8)}"),
        ("In all", f"{render_count(cores, 'core')}, {render_size(sum(guest.ram_mib for guest in guests))}"),
        ("Network", account.network),
        ("Image", f"{account.image} ({account.image_format})"),
        *(("History" if number == 0 else "", line) for number, line in enumerate(account.history)),
        ("Kernel", _join(guest.kernel for guest in guests)),
        ("On nodes", _join(host.facts for host in hosts)),
        ("chslurm", account.version),
        ("Job directory", account.job_dir),
    ]
    return ((name, text) for name, text in facts if text)


def _join(words: Iterable[str], most: int = 4) -> str:
    """The different words, in their order; of many some."""
    different = list(dict.fromkeys(filter(None, words)))
    more = f" and {len(different) - most} more" if len(different) > most else ""
    return ", ".join(different[:most]) + more


def _render_list(heading: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{heading}</h2>\n<ul>\n" + "".join(f"<li>{escape(line)}</li>\n" for line in lines) + "</ul>\n"


def _render_excerpts(account: Account) -> Iterator[str]:
    if account.excerpts:
        yield "<h2>What was written last</h2>\n"
    for excerpt in account.excerpts:
        cut = " <small>(its end)</small>" if excerpt.cut else ""
        yield f"<h3>{escape(excerpt.file)}{cut}</h3>\n<pre>{escape(excerpt.text)}</pre>\n"


def _render_duration(account: Account, duration: Duration) -> str:
    times = "".join(f"<td>{time_s:.2f}</td>" for time_s in (duration.least_s, duration.median_s, duration.most_s))
    swatch = f'<i class="{name_style(duration.what)}"></i>'
    longest = account.guests[duration.longest]
    return f"<tr><td>{swatch}{escape(duration.what)}</td>{times}<td>{longest.name} on {escape(longest.node)}</td></tr>"


def _render_guest(guest: GuestAccount, *, running: bool) -> str:
    ready = "-" if guest.ready_s is None else f"{guest.ready_s:.2f}"
    cells = [guest.name, guest.node, guest.address, str(guest.cores), render_size(guest.ram_mib), ready]
    cells += ["-" if guest.status is None else str(guest.status), describe_end(guest, running=running)]
    style = ' class="bad"' if guest.failed else ""
    return f"<tr{style}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
