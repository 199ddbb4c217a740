# SPDX-License-Identifier: Apache-2.0
"""What happened in a cluster, told again: times, picture and page, also of journals that nobody would write."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from story import Story

from chslurm.account import (
    Account,
    Excerpt,
    account_to_json,
    describe_end,
    describe_verdict,
    find_blamed,
    measure_durations,
)
from chslurm.axis import make_axis, render_moment
from chslurm.chart import MOST_ROWS, Line, Rect, Text, choose_rows, draw_chart, name_style
from chslurm.host.files import find_data
from chslurm.messages import EventKind
from chslurm.page import render_page, render_svg
from chslurm.phases import Cause, Phase
from chslurm.plan import Plan
from chslurm.timeline import Doing, Recorder, Timeline

TEMPLATE = find_data("report.html").read_text()
HOSTILE = "</title></svg><script>alert('1')</script>&amp;<img src=http://x/>\"'"


@pytest.fixture
def story(plan_of: Callable[..., Plan]) -> Story:
    return Story(plan_of(2))


def record(plan: Plan, lines: Iterable[bytes]) -> Timeline:
    recorder = Recorder(plan)
    for line in lines:
        recorder.take(line)
    return recorder.finish()


def spans_of(account: Account, guest: int) -> list[tuple[str, float, float]]:
    return [(span.what, span.start_s, span.end_s) for span in account.guests[guest].spans]


# -- times ------------------------------------------------------------------------------------------------------------


def test_a_guest_does_one_thing_after_another(story: Story) -> None:
    story.boot()
    story.end()
    account = story.tell()
    assert spans_of(account, 0) == [
        ("network", 0, 1), ("QEMU", 1, 2), ("kernel", 2, 5), ("services", 5, 7), ("ready", 7, 10),
        ("job", 10, 15), ("job done", 15, 16), ("shutdown", 16, 20),
    ]  # fmt: skip
    assert [(span.what, span.start_s) for span in account.phases] == [
        ("starting", 0), ("running", 7), ("finishing", 15), ("powering down", 16), ("over", 21),
    ]  # fmt: skip
    assert [stage.name for stage in account.guests[0].stages] == ["10-storage"]
    assert account.guests[0].kernel == "6.1.0-56-amd64"
    assert (account.hosts[1].up_s, account.hosts[1].joined_s, account.hosts[1].done_s) == (1, 1.5, 21)
    assert account.hosts[0].facts == "QEMU 7.2.22, Linux 6.1.0"
    assert [guest.failed for guest in account.guests] == [False, True]
    assert describe_end(account.guests[1], running=False) == "exit status 3"
    assert describe_verdict(account) == "ended after 30.0 s: job, exit status 3"


def test_a_guest_that_is_killed_is_lost_and_the_others_are_not(story: Story) -> None:
    story.boot()
    story.add(12, "guest_gone", 2, 1, status=1, text="QEMU was killed by SIGKILL")
    story.add(13, "guest_gone", 1, 0, text="shut down")
    account = story.tell()
    assert [(guest.lost, guest.end) for guest in account.guests] == [
        (False, "shut down"), (True, "QEMU was killed by SIGKILL"),
    ]  # fmt: skip
    assert [guest.id for guest in find_blamed(account)] == [1]
    assert spans_of(account, 1)[-1] == ("job", 10, 12)
    assert spans_of(account, 0)[-1] == ("shutdown", 12, 13)


def test_a_lost_node_takes_its_guests_along(story: Story) -> None:
    story.boot()
    story.add(12, "node_lost", 2, text="silent for 30 s")
    account = story.tell()
    assert account.guests[1].end == "its node is lost: silent for 30 s"
    assert (account.guests[1].lost, spans_of(account, 1)[-1]) == (True, ("job", 10, 12))


def test_shutting_down_is_no_loss_for_who_works_in_the_guests(plan_of: Callable[..., Plan]) -> None:
    story = Story(plan_of(2, interactive=True))
    story.boot()
    story.add(12, "guest_gone", 2, 1, text="shut down")
    story.add(13, "guest_gone", 1, 0, text="shut down")
    assert [guest.lost for guest in story.tell().guests] == [False, False]


def test_what_still_runs_is_told_until_now(story: Story) -> None:
    story.boot()
    account = story.tell(running=True, now_s=60)
    assert (spans_of(account, 0)[-1], account.good) == (("job", 10, 60), True)
    assert describe_verdict(account) == "running, 60.0 s so far"
    assert find_blamed(account) == []


def test_a_head_that_was_killed_leaves_what_it_wrote(story: Story) -> None:
    story.boot()
    account = story.tell()
    assert (spans_of(account, 0)[-1], account.good) == (("job", 10, 10), False)
    assert describe_verdict(account) == "died; nothing is known of what came after 10.0 s"


def test_a_cluster_that_never_came_up_blames_those_that_were_not_ready(story: Story) -> None:
    story.add(1, "node_up", 1)
    story.add(2, "guest_started", 1, 0, status=77)
    story.add(9, "node_failed", 2, text="no tunnel")
    account = story.tell()
    assert [guest.id for guest in find_blamed(account)] == [0, 1]
    assert spans_of(account, 1) == [("network", 0, 9)]
    assert spans_of(account, 0)[-1] == ("shutdown", 9, 9)


def test_without_a_journal_nothing_is_known(plan_of: Callable[..., Plan]) -> None:
    timeline = record(plan_of(), [])
    assert (timeline.start_unix_s, timeline.end_s) == (None, 0)


def test_durations_are_measured() -> None:
    assert measure_durations([]) == ()


kinds = st.sampled_from(list(EventKind))
events = st.builds(
    lambda kind, host, guest, status, text: {
        "kind": str(kind), "host": host, "guest": guest, "status": status, "text": text,
    },
    kinds, st.integers(-1, 4), st.integers(-1, 4), st.integers(0, 2), st.text(max_size=20),
)  # fmt: skip
entries = st.builds(lambda phase: {"kind": "phase", "phase": int(phase)}, st.sampled_from(list(Phase)))
times = st.one_of(st.floats(0, 1e11), st.floats(1767323000, 1767324000))
journals = st.lists(
    st.one_of(
        st.tuples(times, st.one_of(events, entries)).map(
            lambda item: json.dumps({"unix_s": item[0], **item[1]}).encode() + b"\n"
        ),
        st.binary(max_size=60),
    ),
    max_size=40,
)


@given(lines=journals, running=st.booleans())
def test_spans_are_in_order_whatever_is_in_the_journal(
    plan_of: Callable[..., Plan], lines: list[bytes], running: bool
) -> None:
    story = Story(plan_of(2, 2))
    story.lines = lines
    account = story.tell(running=running)
    end_s = max(span.end_s for span in account.phases)
    for spans in (account.phases, *(guest.spans for guest in account.guests)):
        assert spans[0].start_s == 0
        assert spans[-1].end_s <= end_s
        assert all(span.length_s >= 0 for span in spans)
        assert all(one.end_s == other.start_s for one, other in itertools.pairwise(spans))
    for guest in account.guests:
        order = [list(Doing).index(Doing(span.what)) for span in guest.spans]
        assert order == sorted(set(order))
    check_page(render_page(account, TEMPLATE))
    json.loads(account_to_json(account))


# -- the picture ------------------------------------------------------------------------------------------------------


def test_the_axis_of_a_long_job_is_broken(story: Story) -> None:
    story.boot()
    short = make_axis(story.tell(running=True, now_s=20), 0, 1000)
    assert [(part.start_s, part.end_s) for part in short.parts] == [(0, 20)]
    long = make_axis(story.tell(running=True, now_s=36000), 0, 1000)
    assert [(part.start_s, part.end_s) for part in long.parts] == [(0, 11), (11, 36000)]
    assert [part.left < part.right for part in long.parts] == [True, True]
    assert long.place(0) == 0
    assert long.place(36000) == long.place(40000) == 1000


@pytest.mark.parametrize(
    ("at_s", "step_s", "text"),
    [
        (0, 1, "0 s"), (0.3, 0.1, "0.3 s"), (119, 1, "119 s"), (120, 60, "2 min"), (150, 10, "2:30 min"),
        (7200, 3600, "2 h"), (9000, 1800, "2:30 h"), (36020, 20, "10:00:20"),
    ],
)  # fmt: skip
def test_moments_are_written_as_one_reads_them(at_s: float, step_s: float, text: str) -> None:
    assert render_moment(at_s, step_s) == text


@pytest.mark.parametrize(("hosts", "each"), [(1, 1), (3, 1), (25, 4), (100, 1), (150, 4)])
def test_rows_are_in_the_picture_and_beside_each_other(plan_of: Callable[..., Plan], hosts: int, each: int) -> None:
    story = Story(plan_of(hosts, each))
    story.boot()
    account = story.tell()
    rows = choose_rows(account.guests)
    drawing = draw_chart(account, rows)
    bars = [shape for shape in drawing.shapes if isinstance(shape, Rect) and shape.hint.startswith("chgu")]
    assert len({bar.y for bar in bars}) == len(rows) == min(hosts * each, MOST_ROWS)
    for shape in drawing.shapes:
        if isinstance(shape, Rect):
            assert 0 <= shape.x <= shape.x + shape.width <= drawing.width
            assert 0 <= shape.y <= shape.y + shape.height <= drawing.height
    ElementTree.fromstring(render_svg(drawing))


def test_of_many_guests_those_are_drawn_that_tell_most(plan_of: Callable[..., Plan]) -> None:
    story = Story(plan_of(50, 20))
    story.boot()
    story.add(12, "guest_gone", 26, 515, status=1, text="killed")
    chosen = [guest.id for guest in choose_rows(story.tell().guests, 40)]
    assert len(chosen) == 40
    assert chosen == sorted(chosen)
    assert {0, 515, *range(981, 1000)} <= set(chosen)
    assert len([number for number in chosen if number < 500]) > 8


def test_a_page_of_ten_thousand_guests_is_no_larger_than_one_of_hundreds(plan_of: Callable[..., Plan]) -> None:
    story = Story(plan_of(2500, 4))
    story.lines = []
    page = render_page(story.tell(), TEMPLATE)
    assert len(page) < 2_000_000
    assert f"{MOST_ROWS} of 10000 guests are shown" in page


def test_every_colour_has_its_rule() -> None:
    account_styles = {name_style(doing) for doing in Doing} | {f"on-{name_style(doing)}" for doing in Doing}
    for style in account_styles:
        assert re.search(rf"\.{style}\b[^{{}}]*\{{", TEMPLATE), style


# -- the page ---------------------------------------------------------------------------------------------------------


class Checker(HTMLParser):
    """Reads a page: are its elements closed, in order, and none of those that load or run something?"""

    VOID = ("meta", "br", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "link", "iframe", "object", "a", "image", "use", "base", "form"), tag
        for name, value in attrs:
            assert name not in ("src", "href", "srcset", "style")
            assert not name.startswith("on")
            assert name == "xmlns" or "://" not in (value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            assert "svg" in self.open, tag

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check_page(page: str) -> str:
    """Fail unless the page is well-formed and needs nothing; return its text."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert "url(" not in page
    assert "@import" not in page
    ElementTree.fromstring(page.partition("<!DOCTYPE html>")[2])  # XML, too
    return "".join(checker.text)


def test_what_guests_say_is_text_and_nothing_else(story: Story) -> None:
    story.add(1, "node_up", 1)
    story.add(2, "guest_started", 1, 0)
    story.add(5, "guest_stage", 1, 0, text=f"kernel {HOSTILE} up")
    story.add(6, "guest_stage", 1, 0, text=HOSTILE)
    story.add(6.5, "node_note", 1, text=HOSTILE)
    story.add(7, "guest_gone", 1, 0, status=1, text=f"\x1b[31m\0\u202e{HOSTILE}")
    for host in (1, 2):
        story.add(8, "node_done", host)
    account = dataclasses.replace(
        story.tell(), excerpts=(Excerpt("out/0_console.out", HOSTILE * 100 + "$title ${x}", True),)
    )
    text = check_page(render_page(account, TEMPLATE))
    assert HOSTILE * 100 + "$title ${x}" in text
    assert "lost, exit status 70" in text


def test_what_failed_is_told_before_all_else(story: Story) -> None:
    story.boot()
    story.add(12, "guest_gone", 2, 1, status=1, text="QEMU was killed by SIGKILL")
    account = dataclasses.replace(
        story.tell(), excerpts=(Excerpt("out/1_console.out", "panic", False),), causes=("KVM: no permission",)
    )
    text = check_page(render_page(account, TEMPLATE))
    places = [text.index(words) for words in ("guest 1 on cn002: QEMU was", "KVM: no", "panic", "In all")]
    assert places == sorted(places)


def test_json_is_as_it_was(story: Story, golden: Callable[[str, str], None]) -> None:
    story.boot()
    story.add(12, "guest_gone", 2, 1, status=1, text="QEMU was killed by SIGKILL")
    account = dataclasses.replace(story.tell(), excerpts=(Excerpt("out/1_console.out", "panic", False),))
    golden("report.json", account_to_json(account).decode())


def test_lines_of_a_drawing_are_named_in_the_style_sheet(story: Story) -> None:
    story.boot()
    story.add(12, "guest_gone", 2, 1, status=1, text="killed")
    account = story.tell(running=True, now_s=36000)
    for shape in draw_chart(account, account.guests).shapes:
        if isinstance(shape, Line | Text):
            assert f".{shape.style}" in TEMPLATE, shape


def test_a_cause_is_what_supervision_says(story: Story) -> None:
    story.boot()
    story.end()
    account = story.tell()
    assert (account.cause, account.exit_status, account.state) == (Cause.JOB, 3, "ended")
