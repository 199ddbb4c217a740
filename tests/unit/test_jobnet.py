# SPDX-License-Identifier: Apache-2.0
"""The network of a SLURM job: whom it is for, its names, its steps, and that nothing else of the environment counts."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from chslurm.errors import ChslurmError, UsageError
from chslurm.filters import Family
from chslurm.jobnet import (
    JobNames,
    JobOffer,
    make_job_network,
    make_job_removal,
    make_job_steps,
    make_port_network,
    parse_alias,
    render_alias,
)
from chslurm.jobtunnel import derive_job_keys, make_shown_keys, parse_nodes, parse_secret, pick_addresses
from chslurm.kinds import TunnelKind
from chslurm.network import Place, Tool, render_steps
from chslurm.slurmjob import (
    VARIABLES,
    JobSettings,
    SlurmJob,
    is_chosen,
    is_open,
    parse_job,
    parse_job_id,
    parse_job_settings,
)

ENVIRONMENT = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_UID": "1001",
    "SLURM_JOB_PARTITION": "site",
    "SLURM_JOB_CONSTRAINTS": "[big&vm*2]",
    "SLURM_JOB_NODELIST": "cn[001-003]",
    "SLURMD_NODENAME": "cn002",
}
JOB = parse_job(ENVIRONMENT)
ADDRESSES = ["10.99.0.1", "10.99.0.2", "10.99.0.3"]
NETWORK = make_job_network(JOB, JobSettings(tap_ct=2))
SECRET = bytes(range(32))
SECURE = JobSettings(tap_ct=2, tunnel=TunnelKind.WIREGUARD, key_file="/etc/charliecloud/network.key")
JOB_IDS = st.integers(1, (1 << 32) - 1)


def test_a_job_is_read() -> None:
    nodes = ("cn001", "cn002", "cn003")
    assert SlurmJob(17, 1001, "site", frozenset({"big", "vm", "2"}), nodes, "cn002") == JOB
    assert JOB.host == 2
    older = {**ENVIRONMENT, "SLURM_NODELIST": "cn[001-003]", "SLURM_JOB_NODELIST": ""}
    assert parse_job(older) == JOB


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_JOB_ID", ""),
        ("SLURM_JOB_ID", "0"),
        ("SLURM_JOB_ID", "17\n"),
        ("SLURM_JOB_ID", "017"),
        ("SLURM_JOB_ID", "+17"),
        ("SLURM_JOB_ID", "17_1"),
        ("SLURM_JOB_ID", "4294967296"),
        ("SLURM_JOB_ID", "\u0661\u0667"),
        ("SLURM_JOB_UID", "-1"),
        ("SLURM_JOB_UID", "4294967295"),
        ("SLURM_JOB_UID", "root"),
        ("SLURM_JOB_PARTITION", "a b"),
        ("SLURM_JOB_PARTITION", "../x"),
        ("SLURM_JOB_NODELIST", "cn[001-999999999]"),
        ("SLURM_JOB_NODELIST", "cn001,$(id)"),
        ("SLURM_JOB_NODELIST", "cn001"),
        ("SLURM_JOB_NODELIST", "cn002,cn002"),
        ("SLURMD_NODENAME", "cn004"),
        ("SLURMD_NODENAME", "cn002\n"),
        ("SLURMD_NODENAME", "-cn002"),
    ],
)
def test_what_slurm_would_not_write_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"SLURM\w*{name.partition('_')[2]}|SLURMD_NODENAME|SLURM_NODELIST"):
        parse_job({**ENVIRONMENT, name: value})


@given(st.dictionaries(st.sampled_from([*VARIABLES, "PATH", "LD_PRELOAD", "x"]), st.text(max_size=40)))
def test_any_environment_is_read_wholly_or_refused(hostile: dict[str, str]) -> None:
    """What is read makes steps that hold no character but those of our own text."""
    try:
        job = parse_job({**ENVIRONMENT, **hostile})
    except UsageError:
        return
    network = make_job_network(job, JobSettings(tap_ct=1))
    steps = make_job_steps(network, [f"10.0.0.{n}" for n in range(1, len(job.nodes) + 1)][:250], 1500)
    for step in steps if len(job.nodes) <= 250 else ():
        assert re.fullmatch(r"[A-Za-z0-9 \n\t.:/@,;=!|&+\"{}()_<>-]*", step.text), step.text


@given(JOB_IDS, JOB_IDS)
def test_names_are_short_and_no_other_jobs(one: int, other: int) -> None:
    names = JobNames(one)
    links = [names.bridge, names.veth, names.tap(1), names.tap(253)]
    assert all(len(link) <= 15 and names.owns(link) for link in links)
    if one != other:
        assert not any(JobNames(other).owns(link) for link in links)
        assert JobNames(other).netns != names.netns


@pytest.mark.parametrize("link", ["eth0", "lo", "chbr0", "chtap1", "chhb0", "chht", "chht1234", "chhtb", "xchhb"])
def test_other_links_are_not_ours(link: str) -> None:
    assert JobNames(17).bridge == "chhb"
    assert not JobNames(17).owns(link)


def test_settings() -> None:
    assert parse_job_settings("") == JobSettings("all", 8, 299, 0, False)
    assert parse_job_settings("").find_udp_port(17) == 299
    text = "JOBS=feature:vm\nTAPS=2\nPORT=4789\nMTU=9000\nREQUIRED=yes\nCHSLURM=/opt/chslurm/bin/chslurm\n"
    assert parse_job_settings(text) == JobSettings("feature:vm", 2, 4789, 9000, True)


@pytest.mark.parametrize(
    "text",
    [
        "TUNNEL=some",
        "TUNNEL=wireguard",
        "KEY=key",
        "KEY=/etc/../key",
        "KEY=/etc/",
        "NODES=hosts",
        "PORTS=200",
        "PORTS=0-9",
        "PORTS=9-8",
        "PORTS=1-65536",
        "PORTS=1-2\u0663",
        "JOBS=some",
        "JOBS=partition:",
        "TAPS=0",
        "TAPS=253",
        "PORT=0",
        "MTU=60",
        "REQUIRED=1",
        "X=1",
        "JOBS=$(id)",
    ],
)
def test_bad_settings_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_job_settings(text)


@pytest.mark.parametrize(
    ("jobs", "chosen"),
    [("all", True), ("partition:site", True), ("partition:sit", False), ("feature:vm", True), ("feature:v", False)],
)
def test_who_is_chosen(jobs: str, chosen: bool) -> None:
    assert is_chosen(JobSettings(jobs), JOB) is chosen
    assert not is_chosen(JobSettings(jobs), parse_job({**ENVIRONMENT, "SLURM_JOB_UID": "0"}))


@pytest.mark.parametrize("text", ["all", "partition:", "feature:vm", "partition:a b", "vmopen", "partition:site,open"])
def test_a_network_is_without_filters_for_one_partition_by_its_whole_name_alone(text: str) -> None:
    with pytest.raises(UsageError, match="OPEN"):
        parse_job_settings(f'OPEN="{text}"')


def test_a_partition_has_filters_or_none() -> None:
    with pytest.raises(UsageError, match="JOBS names it, too"):
        parse_job_settings("JOBS=partition:vm\nOPEN=partition:vm")
    for jobs in ("all", "partition:vm", "feature:vm"):
        settings = parse_job_settings(f"JOBS={jobs}\nOPEN=partition:vmopen")
        for partition, open_ in (
            ("vmopen", True),
            ("vm", False),
            ("vmope", False),
            ("vmopen2", False),
            ("VMOPEN", False),
        ):
            job = parse_job({**ENVIRONMENT, "SLURM_JOB_PARTITION": partition})
            assert is_open(settings, job) is open_
            assert is_chosen(settings, job) or not open_
            assert not is_open(JobSettings(), job)
        assert not is_chosen(
            settings, parse_job({**ENVIRONMENT, "SLURM_JOB_PARTITION": "vmopen", "SLURM_JOB_UID": "0"})
        )


def test_steps_of_a_network_without_filters(golden: Callable[[str, str], None]) -> None:
    network = make_job_network(JOB, JobSettings(tap_ct=2, open_partition="site"))
    golden("job-network-open.txt", render_steps(make_job_steps(network, ADDRESSES, 1500)))


def test_steps(golden: Callable[[str, str], None]) -> None:
    removal = make_job_removal(NETWORK.names, ["chht1", "chhv", "chhb"])
    golden("job-network.txt", render_steps((*make_job_steps(NETWORK, ADDRESSES, 1500), *removal)))


def test_steps_with_wireguard(golden: Callable[[str, str], None]) -> None:
    """As --explain shows them: without any key. Neither is one in those that are done."""
    network = make_job_network(JOB, SECURE)
    golden("job-network-wireguard.txt", render_steps(make_job_steps(network, ADDRESSES, 1500, make_shown_keys(JOB))))
    keys = derive_job_keys(SECRET, JOB)
    text = render_steps(make_job_steps(network, ADDRESSES, 1500, keys.public))
    assert keys.public[3] in text
    assert keys.public[2] not in text  # its own
    for known in (keys.private, SECRET):
        assert known.hex() not in text
        assert base64.b64encode(known).decode() not in text


@pytest.mark.parametrize(
    ("text", "kind", "port"),
    [
        ("KEY=/a/b", TunnelKind.WIREGUARD, 217),
        ("KEY=/a/b\nTUNNEL=wireguard\nPORTS=17-33", TunnelKind.WIREGUARD, 17),
        ("KEY=/a/b\nTUNNEL=vxlan\nPORT=9", TunnelKind.VXLAN, 9),
        ("TUNNEL=auto", TunnelKind.VXLAN, 299),
    ],
)
def test_the_tunnel_follows_from_the_settings_alone(text: str, kind: TunnelKind, port: int) -> None:
    settings = parse_job_settings(text)
    assert (settings.tunnel, settings.find_udp_port(17)) == (kind, port)


@given(JOB_IDS, st.integers(1, 98))
def test_jobs_that_follow_each_other_have_other_ports(job_id: int, later: int) -> None:
    assert 200 <= SECURE.find_udp_port(job_id) <= 298
    assert SECURE.find_udp_port(job_id) != SECURE.find_udp_port(job_id + later)


@given(st.binary(min_size=32, max_size=64), JOB_IDS, st.integers(2, 6))
def test_nodes_of_a_job_agree_and_nobody_else_does(secret: bytes, job_id: int, node_ct: int) -> None:
    def make(job_id: int, host: int, uid: str = "1001") -> SlurmJob:
        changed = {
            "SLURM_JOB_ID": str(job_id),
            "SLURM_JOB_NODELIST": f"cn[1-{node_ct}]",
            "SLURMD_NODENAME": f"cn{host}",
        }
        return parse_job({**ENVIRONMENT, **changed, "SLURM_JOB_UID": uid})

    nodes = {host: derive_job_keys(secret, make(job_id, host)) for host in range(1, node_ct + 1)}
    assert len({tuple(keys.public.items()) for keys in nodes.values()}) == 1
    for host, keys in nodes.items():
        private = X25519PrivateKey.from_private_bytes(keys.private)
        assert private.public_key().public_bytes_raw() == base64.b64decode(keys.public[host])
        for other, its in nodes.items():
            theirs = X25519PublicKey.from_public_bytes(base64.b64decode(its.public[other]))
            back = X25519PublicKey.from_public_bytes(base64.b64decode(keys.public[host]))
            assert private.exchange(theirs) == X25519PrivateKey.from_private_bytes(its.private).exchange(back)
    strangers = [
        derive_job_keys(secret, make(job_id % 1000 + 1 if job_id % 1000 + 1 != job_id else 5000, 1)),
        derive_job_keys(secret, make(job_id, 1, "1002")),
        derive_job_keys(secret + b"x", make(job_id, 1)),
    ]
    for stranger in strangers:
        assert not set(stranger.public.values()) & set(nodes[1].public.values())


def test_a_secret_is_read() -> None:
    text = base64.b64encode(SECRET).decode()
    assert parse_secret(text + "\n", "key") == SECRET
    long = bytes(range(256))
    assert parse_secret(base64.b64encode(long).decode(), "key") == long


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        base64.b64encode(SECRET[:31]).decode(),
        base64.b64encode(bytes(32)).decode(),
        base64.b64encode(SECRET).decode() + "\n" + base64.b64encode(SECRET).decode(),
        base64.b64encode(SECRET).decode() + "=",
        base64.b64encode(SECRET).decode()[:-1] + "\u0661",
        SECRET.hex()[:50],
    ],
)
def test_what_is_no_secret_is_refused_and_not_told(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_secret(text, "/etc/key")
    assert "/etc/key" in str(refused.value)
    assert not text or text not in str(refused.value)


def test_addresses_of_nodes_that_the_site_wrote_down() -> None:
    text = "# ours\n10.1.0.1 cn001 cn001-hs # first\n\n10.1.0.2\tcn002\n10.1.0.2 cn002\n10.1.0.2 alias\n"
    known = parse_nodes(text, "nodes")
    assert known == {"cn001": "10.1.0.1", "cn001-hs": "10.1.0.1", "cn002": "10.1.0.2", "alias": "10.1.0.2"}
    assert pick_addresses(("cn002", "cn001"), known, "nodes") == ["10.1.0.2", "10.1.0.1"]
    with pytest.raises(ChslurmError, match="can't find the address of cn003: not in nodes"):
        pick_addresses(("cn002", "cn003"), known, "nodes")
    with pytest.raises(ChslurmError, match="the same address"):
        pick_addresses(("cn002", "alias"), known, "nodes")


@pytest.mark.parametrize(
    "line",
    [
        "10.1.0.1",
        "cn001 10.1.0.1",
        "10.1.0 cn001",
        "127.0.0.1 cn001",
        "0.0.0.0 cn001",
        "fe80::1 cn001",
        "10.1.0.1 cn001;id",
        "10.1.0.1 x\n10.1.0.2 x",
    ],
)
def test_lines_that_are_no_nodes_are_refused(line: str) -> None:
    with pytest.raises(UsageError, match="nodes line"):
        parse_nodes(line, "nodes")


def test_no_link_of_the_node_is_up_before_all_filters_are_loaded() -> None:
    steps = make_job_steps(NETWORK, ADDRESSES, 1500)
    ups = [place for place, step in enumerate(steps) if step.place is Place.NODE and " up\n" in step.text]
    assert ups == [len(steps) - 1]
    assert all(step.family is not None for step in steps if step.tool is Tool.NFT)
    assert {step.family for step in steps} >= {Family.INET, Family.BRIDGE}


def test_a_job_of_one_node_has_no_tunnel() -> None:
    alone = parse_job({**ENVIRONMENT, "SLURM_JOB_NODELIST": "cn002"})
    text = render_steps(make_job_steps(make_job_network(alone, JobSettings())))
    assert "vxlan" not in text
    assert "@peers" not in text
    assert "tunnel=none" in text


def test_very_many_nodes_have_no_room() -> None:
    job = parse_job({**ENVIRONMENT, "SLURM_JOB_NODELIST": "cn[001-4065]"})
    with pytest.raises(UsageError, match="4065 nodes, at most 4064"):
        make_job_network(job, JobSettings())


@given(st.integers(1, 65536), st.integers(1, 65536), st.integers(1, 252), st.integers(576, 65535))
def test_what_a_bridge_tells_is_understood(host: int, host_ct: int, taps: int, mtu: int) -> None:
    for offer in (
        JobOffer(host, host_ct, taps, mtu, "vxlan", 299),
        JobOffer(host, host_ct, taps, mtu, "none", 0, True),
    ):
        assert parse_alias(render_alias(offer)) == offer
    assert len(render_alias(offer)) < 256
    assert parse_alias(render_alias(offer) + "\n") is None
    assert parse_alias("") is None


def test_the_users_own_place_is_the_last_of_his_nodes_network() -> None:
    port = make_port_network(JobOffer(2, 3, 2, 1450, "vxlan"), "port0")
    assert [str(guest.ip) for guest in port.guests] == ["172.22.2.253"]
    assert NETWORK.guests[-1].tap == "chht253"
    assert (NETWORK.guests[-1].ip, NETWORK.guests[-1].mac) == (port.guests[0].ip, port.guests[0].mac)
    assert not port.has_uplink


def test_an_epilog_needs_the_number_alone() -> None:
    assert parse_job_id({"SLURM_JOB_ID": "4294967295"}) == 4294967295
