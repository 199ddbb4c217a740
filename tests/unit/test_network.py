# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chslurm.errors import UsageError
from chslurm.network import (
    Place,
    Step,
    Tool,
    make_host_network,
    make_outside_steps,
    render_network,
    render_steps,
    shorten,
)
from chslurm.plan import Mode, TunnelKind
from chslurm.tunnel import Peer, make_guest_mtu, make_tunnel_steps

PEERS = [Peer(1, "10.0.0.11", 40001), Peer(2, "10.0.0.12", 40002), Peer(3, "10.0.0.13", 40003)]

KEYS = {host: f"PUBLIC-KEY-OF-{host}" for host in (1, 2, 3)}


def text_of(steps: tuple[Step, ...], place: Place, tool: Tool) -> str:
    return "".join(step.text for step in steps if (step.place, step.tool) == (place, tool))


def test_golden_cluster(golden: Callable[[str, str], None]) -> None:
    network = make_host_network(2, 2, Mode.CLUSTER, 3)
    golden("network-cluster.txt", render_network(network, make_tunnel_steps(network, PEERS, vni=42, path_mtu=1500)))


def test_golden_wireguard(golden: Callable[[str, str], None]) -> None:
    steps = make_tunnel_steps(make_host_network(2, 2, Mode.CLUSTER, 3), PEERS, 42, 1500, KEYS)
    golden("network-wireguard.txt", render_steps(steps))


def test_golden_workstation(golden: Callable[[str, str], None]) -> None:
    network = make_host_network(1, 2, Mode.WORKSTATION)
    golden("network-workstation.txt", render_network(network, make_outside_steps(network)))


def test_filters_come_before_links() -> None:
    for mode, host_ct in ((Mode.WORKSTATION, 1), (Mode.CLUSTER, 1), (Mode.CLUSTER, 3)):
        tools = [step.tool for step in make_host_network(1, 1, mode, host_ct).steps if step.place is Place.GUESTS]
        assert tools == [Tool.SYSCTL, Tool.NFT, Tool.NFT, Tool.NFT, Tool.IP]
    network = make_host_network(1, 1, Mode.CLUSTER, 3)
    for keys in (None, KEYS):
        tunnel = make_tunnel_steps(network, PEERS, 1, 1500, keys)
        assert [step.tool for step in tunnel if step.place is Place.UPLINK] == [Tool.NFT, Tool.NFT, Tool.IP]
        here = [step.tool for step in tunnel if step.place is Place.GUESTS]
        assert here == [Tool.NFT, Tool.WG if keys else Tool.BRIDGE, Tool.IP]
    workstation = make_host_network(1, 1, Mode.WORKSTATION)
    assert [step.tool for step in make_outside_steps(workstation)] == [Tool.NFT, Tool.IP]


def test_only_a_cluster_of_several_hosts_has_an_uplink() -> None:
    assert make_host_network(1, 1, Mode.CLUSTER, 2).has_uplink
    assert not make_host_network(1, 1, Mode.CLUSTER, 1).has_uplink
    assert not make_host_network(1, 1, Mode.WORKSTATION).has_uplink


def test_only_a_workstation_has_a_nameserver() -> None:
    assert make_host_network(1, 1, Mode.WORKSTATION).nameserver == IPv4Address("172.22.1.254")
    assert make_host_network(1, 1, Mode.CLUSTER, 2).nameserver is None


def test_no_chain_that_filters_accepts_by_default() -> None:
    network = make_host_network(1, 1, Mode.CLUSTER, 3)
    for steps in (
        network.steps,
        make_host_network(1, 1, Mode.WORKSTATION).steps,
        make_tunnel_steps(network, PEERS, 1, 1500),
        make_tunnel_steps(network, PEERS, 1, 1500, KEYS),
    ):
        for step in steps:
            for line in step.text.splitlines():
                if "hook" in line and "priority filter" in line:
                    assert line.endswith("policy drop")


@settings(deadline=None)
@given(st.integers(2, 60), st.data())
def test_every_other_host_is_routed_once_and_by_its_own_port(host_ct: int, data: st.DataObject) -> None:
    own = data.draw(st.integers(1, host_ct))
    ports = data.draw(st.lists(st.integers(1024, 65534), min_size=host_ct, max_size=host_ct))
    peers = [Peer(host, f"10.1.0.{host}", port) for host, port in enumerate(ports, 1)]
    network = make_host_network(own, 1, Mode.CLUSTER, host_ct)
    steps = make_tunnel_steps(network, peers, vni=1, path_mtu=1500)
    routes = text_of(steps, Place.GUESTS, Tool.IP).splitlines()
    forwarding = text_of(steps, Place.GUESTS, Tool.BRIDGE).splitlines()
    for peer in peers:
        routed = [line for line in routes if line.startswith(f"route add {network.layout.subnet(peer.host_number)} ")]
        sent = [line for line in forwarding if f"dst {peer.address} port {peer.udp_port} " in line]
        assert len(routed) == len(sent) == (peer.host_number != own)


def test_every_route_differs_in_what_the_kernel_files_it_by() -> None:
    """Routes of one device, alike but for the gateway, lie in one chain, and each new one is compared with all."""
    network = make_host_network(2, 1, Mode.CLUSTER, 3)
    routes = text_of(make_tunnel_steps(network, PEERS, 1, 1500), Place.GUESTS, Tool.IP).splitlines()
    metrics = [line.split(" metric ")[1] for line in routes if line.startswith("route add")]
    assert len(set(metrics)) == len(metrics) == 2


def test_what_a_host_logs_is_bounded_however_many_hosts_there_are() -> None:
    network = make_host_network(1, 1, Mode.CLUSTER, 5000)
    peers = [Peer(host, f"10.{host >> 8}.{host & 255}.1", 40000) for host in range(1, 5001)]
    for step in make_tunnel_steps(network, peers, 1, 1500):
        logged = shorten(step.text)
        assert len(logged) < 20_000
        assert logged == step.text or "..." in logged
    assert shorten("a\nb\n") == "a\nb\n"


def test_guests_leave_room_for_the_tunnel() -> None:
    assert [make_guest_mtu(path, TunnelKind.VXLAN) for path in (1400, 1500, 9000)] == [1350, 1450, 8950]
    assert [make_guest_mtu(path, TunnelKind.WIREGUARD) for path in (1400, 1500, 9000)] == [1340, 1440, 8940]


@pytest.mark.parametrize(("host", "slots"), [(0, 1), (2, 1), (1, 254)])
def test_beyond_the_limits(host: int, slots: int) -> None:
    with pytest.raises(UsageError):
        make_host_network(host, slots, Mode.CLUSTER, 1)


def test_the_gateway_is_the_host() -> None:
    assert make_host_network(7, 1, Mode.CLUSTER, 9).gateway == IPv4Address("172.22.7.254")
