# SPDX-License-Identifier: Apache-2.0
"""The network that root makes on a workstation: settings, steps, and what is ours of what is found."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.errors import ChslurmError, UsageError
from chslurm.network import Tool
from chslurm.site import (
    BRIDGE,
    FIRST_NAMES_PORT,
    FIRST_SSH_PORT,
    MOST_TAPS,
    Link,
    Settings,
    Site,
    check_addresses,
    find_faults,
    find_own_links,
    find_own_tables,
    find_slot,
    make_link_removal,
    make_relay_ports,
    make_rule_removal,
    make_site_guest,
    make_steps,
    make_tap_name,
    parse_settings,
    render_site,
)

SITE = Site(1001, "eth0", 2, guarded=True)
MAC = "02:00:ac:16:01:fe"

TUTORIAL = "TAP_OWNER=reidpr   # you\nFWD_IFACE=em1      # network interface to be used for NAT\n"


def make_links(**changes: object) -> dict[str, Link]:
    """The links of SITE as they should be, but for `changes` of chtap1."""
    bridge = Link(BRIDGE, "bridge", MAC, "", up=True, carrier=True, user="")
    taps = [Link(f"chtap{n}", "tun", "", BRIDGE, up=True, carrier=False, user="user") for n in (1, 2)]
    eth = Link("eth0", "", "", "", up=True, carrier=True, user="")
    taps[0] = dataclasses.replace(taps[0], **changes)  # type: ignore[arg-type]
    return {link.name: link for link in (eth, bridge, *taps)}


# -- settings ---------------------------------------------------------------------------------------------------------


def test_the_tutorials_settings_are_read() -> None:
    assert parse_settings(TUTORIAL) == Settings("reidpr", "em1", 4)


@pytest.mark.parametrize("value", ["em1", '"em1"', "'em1'", "em1 ", "em1\t# comment", "'em1' #"])
def test_forms_of_a_value(value: str) -> None:
    assert parse_settings(f"# c\n\n  # c\nTAP_OWNER=1001\nTAP_CT=64\nFWD_IFACE={value}\n") == Settings(
        "1001", "em1", 64
    )


@pytest.mark.parametrize(
    "line",
    [
        "TAP_OWNER=$(id)",
        "TAP_OWNER=`id`",
        'TAP_OWNER="$USER"',
        "TAP_OWNER='a'b",
        "TAP_OWNER=a;id",
        "TAP_OWNER=a b",
        "TAP_OWNER=a#b",
        "TAP_OWNER=\\a",
        "TAP_OWNER=~",
        "TAP_OWNER = a",
        "export TAP_OWNER=a",
        "TAP_OWNER",
        "TAP_OWNER=a\r",
        "TAP_OWNER=a\x00",
        "TAP_OWNER=a\x0b",
        "TAP_OWNER='a\u2028'",
        ". /tmp/more",
        "PATH=/tmp",
        "TAP_OWNER=-a",
        "TAP_OWNER=",
        "FWD_IFACE=lo",
        "FWD_IFACE=../eth0",
        'FWD_IFACE="eth*"',
        "FWD_IFACE=chbr0",
        "FWD_IFACE=chtap1",
        "FWD_IFACE=a234567890123456",
        "TAP_CT=0",
        "TAP_CT=254",
        "TAP_CT=-1",
        "TAP_CT=1.0",
    ],
)
def test_what_is_no_setting_is_refused(line: str) -> None:
    key = re.match(r"\w+(?==)", line)
    given = {"TAP_OWNER": "TAP_OWNER=a", "FWD_IFACE": "FWD_IFACE=e", "TAP_CT": "TAP_CT=1"}
    lines = [text for name, text in given.items() if not key or name != key[0]]
    assert parse_settings("\n".join(given.values())) == Settings("a", "e", 1)
    with pytest.raises(UsageError) as caught:
        parse_settings("\n".join([*lines, line]), "FILE")
    assert "FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="line 3: TAP_OWNER is set twice"):
        parse_settings(TUTORIAL + "TAP_OWNER=b")


@given(st.text() | st.from_regex(r"(\w+=.*\n){0,5}"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_settings(text)
    except UsageError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_.@-]+", found.tap_owner)
    assert re.fullmatch(r"[A-Za-z0-9_.@-]{1,15}", found.forward_to)
    assert 1 <= found.tap_ct <= MOST_TAPS


@given(
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}", fullmatch=True),
    st.from_regex(r"[a-z][a-z0-9_.@-]{2,14}", fullmatch=True).filter(lambda name: not find_slot(name)),
    st.integers(1, MOST_TAPS),
    st.sampled_from(["{}={}", '{}="{}"', "{}='{}'", "\t{}={}   # any $comment `at` all; 'or\""]),
)
def test_settings_come_back_as_they_were_written(owner: str, link: str, count: int, form: str) -> None:
    if link != BRIDGE:
        values = {"TAP_OWNER": owner, "FWD_IFACE": link, "TAP_CT": count, "CHSLURM": "/opt/chslurm"}
        text = "\n".join(form.format(key, value) for key, value in values.items())
        assert parse_settings(text) == Settings(owner, link, count)


# -- steps ------------------------------------------------------------------------------------------------------------


def test_steps_are_as_agreed(golden: Callable[[str, str], None]) -> None:
    text = "".join(f"== {verb}\n{render_site(SITE, verb)}" for verb in ("start", "stop", "restart", "status"))
    golden("site-workstation.txt", text)


@pytest.mark.parametrize("guarded", [False, True])
def test_no_link_is_up_before_the_filters_are_there(guarded: bool) -> None:
    steps = make_steps(dataclasses.replace(SITE, guarded=guarded))
    (filters,) = (index for index, step in enumerate(steps) if step.tool is Tool.NFT)
    for index, step in enumerate(steps):
        if step.tool is Tool.IP and re.search(r"\bup$", step.text, re.MULTILINE):
            assert index > filters
    assert re.search(r"\bup$", steps[-1].text, re.MULTILINE)


def test_a_link_that_forwards_already_is_not_touched_or_guarded() -> None:
    text = "".join(step.text for step in make_steps(dataclasses.replace(SITE, guarded=False)))
    assert "conf/eth0" not in text
    assert 'iifname "eth0" drop' not in text
    assert 'iifname "eth0" drop' in "".join(step.text for step in make_steps(SITE))


@pytest.mark.parametrize("count", [1, MOST_TAPS])
def test_only_our_own_names_are_made(count: int) -> None:
    steps = make_steps(dataclasses.replace(SITE, tap_ct=count))
    made = [line for step in steps if step.tool is Tool.IP for line in step.text.splitlines()]
    names = {match[1] for line in made for match in re.finditer(r"(?:dev|link add) (\S+)", line)}
    assert names == {BRIDGE, *(f"chtap{n}" for n in range(1, count + 1))}
    tables = set(re.findall(r"table (?:inet|netdev|bridge) (\S+)", "".join(step.text for step in steps)))
    assert tables == {"chslurm_w", "chslurm_w_again"}


def test_ports_of_relays_are_apart_and_below_those_that_linux_gives_away() -> None:
    ports = [port for slot in range(1, MOST_TAPS + 1) for port in make_relay_ports(slot).values()]
    assert len(set(ports)) == len(ports) == 2 * MOST_TAPS
    assert 1024 < min(FIRST_NAMES_PORT, FIRST_SSH_PORT) < max(ports) < 32768


@given(st.integers(1, MOST_TAPS))
def test_taps_are_numbered_as_guests(slot: int) -> None:
    guest = make_site_guest(slot)
    assert find_slot(guest.tap) == find_slot(make_tap_name(slot)) == slot
    assert str(guest.ip) == f"172.22.1.{slot}"
    assert guest.ip in IPv4Network("172.22.1.0/24")


@pytest.mark.parametrize("name", ["chtap", "chtap0", "chtap01", "chtap1x", "xchtap1", "tap1", "chtap1\n", "chtap1000"])
def test_other_names_are_no_taps_of_ours(name: str) -> None:
    assert find_slot(name) is None


# -- what is found ----------------------------------------------------------------------------------------------------


def test_own_links_are_found_the_bridge_last() -> None:
    assert find_own_links(make_links()) == ("chtap1", "chtap2", BRIDGE)


@pytest.mark.parametrize(
    "link",
    [
        Link(BRIDGE, "bridge", "02:00:00:00:00:01", "", up=True, carrier=True, user=""),
        Link(BRIDGE, "", MAC, "", up=True, carrier=True, user=""),
        Link("chtap7", "veth", "", "", up=True, carrier=True, user=""),
    ],
)
def test_a_link_of_others_with_our_name_is_not_touched(link: Link) -> None:
    with pytest.raises(ChslurmError, match="not ours"):
        find_own_links({**make_links(), link.name: link})


def test_own_tables_are_found() -> None:
    others = [
        ("inet", "filter"),
        ("ip", "chslurm_w"),
        ("inet", "chslurm"),
        ("inet", "chslurm_w2"),
        ("inet", "xchslurm_w"),
    ]
    own = [("inet", "chslurm_w"), ("netdev", "chslurm_w"), ("bridge", "chslurm_w"), ("bridge", "chslurm_w_again")]
    assert find_own_tables([*others, *own]) == tuple(own)


def test_nothing_found_is_nothing_to_remove() -> None:
    assert [step.text for step in (*make_link_removal(()), make_rule_removal(()))] == ["", ""]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"up": False}, "chtap1 is down"),
        ({"master": ""}, "chtap1 is not in chbr0"),
        ({"user": "other"}, "chtap1 belongs to other"),
        ({"user": ""}, "chtap1 belongs to nobody"),
        ({"name": "chtap3"}, "chtap1 is missing"),
    ],
)
def test_faults_of_links(changes: dict[str, object], fault: str | None) -> None:
    found = find_faults(SITE, make_links(**changes), ("user", "1001"), ("172.22.1.254/24",))
    assert found == ([] if fault is None else [fault])


def test_faults_of_the_bridge() -> None:
    links = make_links()
    assert find_faults(SITE, links, ("user",), ("10.0.0.1/24",)) == ["bridge chbr0 has not the address 172.22.1.254/24"]
    down = {**links, BRIDGE: dataclasses.replace(links[BRIDGE], up=False)}
    assert find_faults(SITE, down, ("user",), ("172.22.1.254/24",)) == ["bridge chbr0 is down"]


@pytest.mark.parametrize("address", ["172.22.1.7/32", "172.22.0.1/16", "172.16.0.1/12", "0.0.0.1/0"])
def test_a_host_in_our_network_is_told(address: str) -> None:
    check_addresses({"lo": ("127.0.0.1/8",), "eth0": ("172.22.2.1/24",), BRIDGE: ("172.22.1.254/24",)})
    with pytest.raises(ChslurmError, match=f"br-x of this host has {address}"):
        check_addresses({"br-x": (address,)})
