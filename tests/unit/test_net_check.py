# SPDX-License-Identifier: Apache-2.0
"""The check of a network: probes, what is made of what was seen, and hostile reports."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Collection
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.errors import UsageError
from chslurm.filters import Family
from chslurm.isolation import make_probes
from chslurm.netcheck import parse_families
from chslurm.plan import Host, Mode, NetworkKind, Plan, TunnelKind
from chslurm.scene import Control, Probe, Scene, Way, make_scene
from chslurm.trial import (
    MAX_PROBES,
    REPORT_MAX_BYTES,
    GuestReport,
    HostWord,
    find_mark,
    make_mark,
    pack,
    parse_report,
    parse_word,
    unpack,
)
from chslurm.verdicts import (
    GATEWAYS,
    ROOTS,
    Line,
    Pass,
    Verdict,
    count_controls,
    is_good,
    is_tried,
    judge,
    render_lines,
    render_verdict,
)

ALL = tuple(Family)
GOOD = GuestReport(3, 1, (0,), (), ((0, 1),), {"172.22.1.254": "02:00:ac:16:01:fe"})


def scene_of(plan: Plan, *, hosts: int = 2, each: int = 2, kind: TunnelKind = TunnelKind.VXLAN, **more: Any) -> Scene:
    """A scene as two nodes would tell it."""
    guests = tuple(
        dataclasses.replace(plan.guests[0], id=host * each + slot, host=host + 1, slot=slot + 1)
        for host in range(hosts)
        for slot in range(each)
    )
    nodes = tuple(Host(number, f"cn{number:03}", 2, 4000, (number - 1) * each, each) for number in range(1, hosts + 1))
    plan = dataclasses.replace(plan, hosts=nodes, guests=guests, **more)
    words = {
        host.number: HostWord(0, (f"10.99.0.{host.number}",), 4001, 4002, 4003, (("10.99.0.254", 6817),))
        for host in nodes
    }
    tunnels = {host.number: (f"10.99.0.{host.number}", 40000) for host in nodes} if hosts > 1 else {}
    return make_scene(plan, words, tunnels, kind if hosts > 1 else None, short=False)


@pytest.fixture
def scene(plan_of: Callable[..., Plan]) -> Scene:
    return scene_of(plan_of(), mode=Mode.CLUSTER)


def by_prolog(plan: Plan, **more: Any) -> Scene:
    """The same in a network that root has made for a job: 299 is the port of its VXLAN, 18 the number."""
    scene = scene_of(plan, mode=Mode.CLUSTER, network=NetworkKind.SITE)
    words = {site.host.number: msgspec.structs.replace(site.word, vxlan=(299, 18)) for site in scene.sites}
    hosts = tuple(site.host for site in scene.sites)
    guests = tuple(
        dataclasses.replace(plan.guests[0], id=number, host=number // 2 + 1, slot=number % 2 + 1) for number in range(4)
    )
    plan = dataclasses.replace(plan, hosts=hosts, guests=guests, mode=Mode.CLUSTER, network=NetworkKind.SITE)
    return make_scene(plan, words, {}, TunnelKind.VXLAN, short=False, **more)


def run(scene: Scene, *, seen: Collection[int] = (), missing: Collection[int] = ()) -> list[Pass]:
    """The passes of a good network, but for probes that were seen, and others that were missing in the control."""
    probes = make_probes(scene, 0)
    rightful = {probe.number for probe in probes if probe.row.control is Control.ITSELF}
    from_nodes = {p.number for p in probes if p.way is Way.NODE_DOOR and p.row.control is Control.NODE}
    first = Pass(0, (), probes, {"chgu1": set(seen)}, rightful | from_nodes)
    passes = [first] + [Pass(n, (family,), make_probes(scene, n), {}) for n, family in enumerate(ALL, 1)]
    arriving = {probe.number for probe in probes if probe.controlled} - set(missing)
    return [*passes, Pass(4, ALL, make_probes(scene, 4), {"chgu1": arriving})]


def line_of(lines: Collection[Line], probe: Probe) -> Line:
    found = [line for line in lines if (line.id, line.tried) == (probe.row.id, probe.row.tried)]
    return next(line for line in found if line.address in ("", probe.row.state))


def one_of_each(scene: Scene) -> list[Probe]:
    """A probe of every row whose control is without filters."""
    found = {probe.row: probe for probe in make_probes(scene, 0) if probe.row.control is Control.OFF}
    return list(found.values())


# -- probes -----------------------------------------------------------------------------------------------------------


def test_every_requirement_is_tried_in_three_states(scene: Scene) -> None:
    probes = make_probes(scene, 0)
    assert {probe.row.id for probe in probes} == {"L1", "L2", *(f"S{number}" for number in range(1, 10))}
    for id_ in ("S2", "S3", "S6", "S8", "S9"):
        assert len({probe.row.state for probe in probes if probe.row.id == id_}) == 3, id_


def test_each_frame_has_its_own_mark_in_each_pass(scene: Scene) -> None:
    prefix = bytes.fromhex(scene.cluster_id[:8])
    for number in (0, 4):
        probes = make_probes(scene, number)
        assert [probe.number for probe in probes] == list(range(len(probes)))
        for probe in probes:
            marked = probe.way in (Way.FRAME, Way.NODE_DATAGRAM)
            assert find_mark(probe.payload, prefix) == ((number, probe.number) if marked else None)


def test_no_frame_is_one_that_a_guest_may_send(scene: Scene) -> None:
    """The own MAC, the own IP and a guest of the cluster as the receiver, all at once and untagged, are in none."""
    guests = {number: address for number, address in scene.guests}
    for probe in make_probes(scene, 0):
        if probe.way is Way.FRAME and probe.payload[12:14] == b"\x08\x00":
            address, frame = guests[probe.sender], probe.payload
            own = frame[6:12].hex(":") == address.mac and frame[26:30] == address.ip.packed
            port = int.from_bytes(frame[36:38], "big")
            inside = frame[30:34] in {other.ip.packed for other in guests.values()}
            direct = frame[:6].hex(":") in {other.mac for other in guests.values()}
            assert not (own and inside and direct and port not in (67, 68)), probe.row


@pytest.mark.parametrize("hosts", [1, 2, 3])
@pytest.mark.parametrize("each", [1, 2, 40])
def test_probes_have_room_in_what_hosts_say(plan_of: Callable[..., Plan], hosts: int, each: int) -> None:
    for mode in Mode:
        probes = make_probes(scene_of(plan_of(), hosts=hosts, each=each, mode=mode), 0)
        assert len(probes) < MAX_PROBES
        everything = pack(range(len(probes)))
        word = HostWord(99, opened=everything, seen={"bridge": everything, "listener": everything})
        assert len(json.dumps(msgspec.json.encode(word).decode())) < 900 - 60


# -- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_good_network_is_ok_row_by_row(scene: Scene) -> None:
    lines = judge(scene, run(scene))
    assert {line.verdict for line in lines} == {Verdict.OK, Verdict.NOT_TRIED}
    assert is_good(lines)
    assert re.fullmatch(r"\d+ rows: all ok, 1 not tried", render_verdict(lines))
    assert all(len(cells) == 7 for cells in render_lines(lines))


def test_every_probe_that_arrives_fails_its_row_and_no_other(scene: Scene) -> None:
    for probe in one_of_each(scene):
        lines = judge(scene, run(scene, seen=[probe.number]))
        assert [line for line in lines if line.verdict is Verdict.FAILED] == [line_of(lines, probe)]
        assert line_of(lines, probe).arrived == "chgu1 (1)"
        assert not is_good(lines)


def test_every_probe_that_is_missing_in_the_control_fails_the_control(scene: Scene) -> None:
    for probe in one_of_each(scene):
        lines = judge(scene, run(scene, missing=[probe.number]))
        assert [x for x in lines if x.verdict is Verdict.CONTROL_FAILED] == [line_of(lines, probe)]
        assert render_verdict(lines).endswith(f"1 control failed: {probe.row.id}, 1 not tried")


def test_what_should_arrive_and_does_not_has_failed(scene: Scene) -> None:
    passes = run(scene)
    for probe in passes[0].probes[::-1]:
        if probe.row.id in ("L1", "L2") and probe.number % 5 == 0:
            lines = judge(scene, [dataclasses.replace(passes[0], answered=passes[0].answered - {probe.number})])
            assert line_of(lines, probe).verdict is Verdict.FAILED


def test_controls_from_the_node_and_from_guests(scene: Scene) -> None:
    passes = run(scene)
    nodes = {p.number for p in passes[0].probes if p.row.control is Control.NODE}
    lines = judge(scene, [dataclasses.replace(passes[0], answered=passes[0].answered - nodes), *passes[1:]])
    assert [line.id for line in lines if line.verdict is Verdict.CONTROL_FAILED] == ["S6"]
    ssh = {p.number for p in passes[0].probes if p.row.id == "L2"}
    lines = judge(scene, [dataclasses.replace(passes[0], answered=passes[0].answered - ssh), *passes[1:]])
    assert [line.id for line in lines if line.verdict is Verdict.CONTROL_FAILED] == ["S7"]


def test_a_pass_without_a_family_in_which_something_arrives_has_failed(scene: Scene) -> None:
    passes = run(scene)
    attack = next(p for p in passes[2].probes if p.row.id == "S4")
    passes[2] = dataclasses.replace(passes[2], seen={"bridge of cn001": {attack.number}})
    (failed,) = [line for line in judge(scene, passes) if line.verdict is Verdict.FAILED]
    assert (failed.id, failed.reason, failed.arrived) == ("S12", "rows S4", "bridge of cn001 (1)")
    assert "family netdev" in failed.tried


def test_without_a_second_pass_there_is_no_control_and_it_says_so(scene: Scene) -> None:
    lines = judge(scene, run(scene)[:1])
    assert is_good(lines)
    assert {line.control for line in lines if line.id == "S1"} == {"no second pass"}
    site = dataclasses.replace(scene, network=NetworkKind.SITE)
    assert {line.control for line in judge(site, run(site)[:1]) if line.id == "S2"} == {"filters are root's"}


def test_what_can_not_be_tried_is_told(plan_of: Callable[..., Plan]) -> None:
    alone = scene_of(plan_of(), hosts=1, each=1, mode=Mode.WORKSTATION, network=NetworkKind.SITE)
    lines = judge(alone, [Pass(0, (), make_probes(alone, 0))])
    reasons = {line.reason for line in lines if line.verdict is Verdict.NOT_TRIED}
    assert {"one host: there is no tunnel", "their owner reaches them there", "one guest on each host"} <= reasons


def test_a_network_made_for_a_job_is_attacked_where_root_has_put_it(plan_of: Callable[..., Plan]) -> None:
    """Its tunnel is the prolog's, not the launcher's; a process of the node has no business with its guests, either."""
    scene = by_prolog(plan_of(), second_user="nobody")
    probes = make_probes(scene, 0)
    forged = [probe for probe in probes if probe.way in (Way.NODE_DATAGRAM, Way.STRANGE_DATAGRAM) and probe.port == 299]
    assert [(probe.row.id, probe.address) for probe in forged] == [
        ("S9", "10.99.0.2"), ("S10", "10.99.0.2"), ("S9", "10.99.0.1"), ("S10", "10.99.0.1"),
    ]  # fmt: skip
    assert all(probe.payload[4:7] == (18).to_bytes(3, "big") for probe in forged)
    assert "S7" in {probe.row.id for probe in probes}


def test_what_comes_to_a_gateway_of_roots_is_counted(plan_of: Callable[..., Plan]) -> None:
    scene = by_prolog(plan_of())
    (first, *_) = run(scene)
    for count, verdict, told in ((0, Verdict.OK, "nowhere"), (3, Verdict.FAILED, "gateway of cn001 (3)")):
        lines = judge(scene, [dataclasses.replace(first, carried={"cn001": count, "cn002": 0})])
        (line,) = [line for line in lines if line.tried == GATEWAYS.tried]
        assert (line.verdict, line.arrived, line.sent) == (verdict, told, first.frames)
    assert first.frames > 500


def test_what_a_control_has_to_show(plan_of: Callable[..., Plan]) -> None:
    """Of each row without another control how many arrived; with the counts they are those of the check's own rows."""
    scene = by_prolog(plan_of(), second_user="nobody")
    passes = run(scene)
    carried = {"cn001": 1500, "cn002": 1500}
    check = judge(scene, [dataclasses.replace(passes[0], carried=dict.fromkeys(carried, 0))])
    counts = count_controls(dataclasses.replace(passes[-1], carried=carried))
    needed = {(line.id, line.tried, line.address) for line in check if line.control == ROOTS}
    assert set(counts) == needed
    assert all(arrived == sent > 0 for arrived, sent in counts.values())
    probe = next(probe for probe in passes[0].probes if probe.row.id == "S10")
    less = {name: seen - {probe.number} for name, seen in passes[-1].seen.items()}
    arrived, sent = count_controls(dataclasses.replace(passes[-1], seen=less))["S10", probe.row.tried, "its own"]
    assert arrived == sent - 1


def test_a_second_user_that_is_not_to_be_had_is_told(plan_of: Callable[..., Plan]) -> None:
    scene = by_prolog(plan_of(), second_user="nobody")
    passes = run(scene)
    passes[0].obstacle = "no process of nobody: sudo: a password is required"
    (line,) = [line for line in judge(scene, passes) if line.id == "S10"]
    assert (line.verdict, line.reason) == (Verdict.NOT_TRIED, passes[0].obstacle)


def test_later_passes_leave_out_what_has_no_filters(scene: Scene) -> None:
    later = {probe.way for probe in make_probes(scene, 1) if is_tried(probe, 1)}
    assert later == {Way.FRAME, Way.DOOR, Way.NODE_DATAGRAM, Way.TABLE}
    assert all(is_tried(probe, 0) for probe in make_probes(scene, 0))


# -- what is said -----------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, MAX_PROBES - 1)))
def test_sets_of_numbers_survive(numbers: set[int]) -> None:
    assert unpack(pack(numbers)) == numbers


@given(st.text())
def test_a_host_that_says_nonsense_has_said_nothing(text: str) -> None:
    assert unpack(text) <= set(range(MAX_PROBES))
    parse_word(text)


@given(st.binary(), st.integers(0, 255), st.integers(0, 65535), st.binary())
def test_marks_are_found(before: bytes, number: int, probe: int, after: bytes) -> None:
    mark = make_mark("0123456789abcdef", number, probe)
    if mark[:5] not in before + mark[:4]:
        assert find_mark(before + mark + after, mark[:4]) == (number, probe)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@given(st.binary() | _JSON.map(lambda value: json.dumps(value).encode()))
def test_a_hostile_report_is_none(text: bytes) -> None:
    assert parse_report(text, 3) is None


@given(st.sampled_from(GuestReport.__struct_fields__), _JSON)
def test_a_report_with_one_false_field_is_none_or_in_range(field: str, value: object) -> None:
    report = parse_report(json.dumps({**msgspec.to_builtins(GOOD), field: value}).encode(), 3)
    if report is not None:
        assert all(0 <= number < MAX_PROBES for number in (*report.doors, *report.pings, report.sent))
        assert len(report.neighbours) <= MAX_PROBES


def test_reports_that_lie_about_numbers_are_none() -> None:
    def parse(**changes: Any) -> GuestReport | None:
        return parse_report(msgspec.json.encode(msgspec.structs.replace(GOOD, **changes)), 3)

    assert parse() == GOOD
    assert parse(turn=2) is None
    assert parse(sent=-1) is None
    assert parse(doors=(MAX_PROBES,)) is None
    assert parse(seen=((0, -1),)) is None
    assert parse(seen=((99, 1),)) is None
    assert parse(neighbours={str(number): "" for number in range(MAX_PROBES + 1)}) is None
    assert parse_report(b" " * (REPORT_MAX_BYTES + 1), 3) is None
    assert parse_report(b"[" * 60000, 3) is None


def test_families_that_are_missing_when_it_counts() -> None:
    assert parse_families("netdev,bridge") == (Family.NETDEV, Family.BRIDGE)
    assert parse_families("") == ()
    with pytest.raises(UsageError, match="--without"):
        parse_families("ip6")
