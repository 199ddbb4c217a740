# SPDX-License-Identifier: Apache-2.0
"""WireGuard between hosts: what passes, what does not, and what can be read on the way.

The same attacks succeed against VXLAN, which shows that they are attacks. Where the kernel has no WireGuard nothing
more is tried; `tests/real/test_wireguard.py` runs this file inside a guest, whose kernel has it.
"""

from __future__ import annotations

import base64
import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Ends, Guest, Lab, Node, join

from chslurm.addresses import make_layout, make_mac
from chslurm.plan import TunnelKind
from chslurm.tunnel import OVERHEAD
from chslurm.wireguard import choose_tunnel, derive_host_keys

CLUSTER_ID = "0123456789abcdef"  # the driver's
SECRET = "the secret of a cluster"
WORDS = "these are the words of a guest"
VNI = 77


def has_wireguard() -> bool:
    trial = ["unshare", "--net", "ip", "link", "add", "try0", "type", "wireguard"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


needs_wireguard = pytest.mark.skipif(not has_wireguard(), reason="this kernel has no WireGuard")
both = pytest.mark.parametrize("kind", [pytest.param(TunnelKind.WIREGUARD, marks=needs_wireguard), TunnelKind.VXLAN])


def start_two(lab: Lab, kind: TunnelKind, host_ct: int = 2, secrets: tuple[str, str] = (SECRET, SECRET)) -> Pair:
    """Two hosts with a guest each, joined; a third is in the plan when `host_ct` says so."""
    nodes = [lab.start(lab.add_host(number), number, 1, host_ct=host_ct) for number in (1, 2)]
    absent = [(3, "10.99.0.3", 40003)] if host_ct == 3 else []
    ends = join(nodes, vni=VNI, secrets=secrets if kind is TunnelKind.WIREGUARD else (), absent=absent)
    return nodes, ends


Pair = tuple[list[Node], Ends]


def count_echoes(guest: Guest) -> int:
    """How many ICMP packets have come to a guest."""
    return int(guest.sh("awk '/^Icmp:/ {print $2}' /proc/net/snmp | tail -1"))


def arrives(guest: Guest, act: Callable[[], object]) -> bool:
    before = count_echoes(guest)
    act()
    return count_echoes(guest) > before


# -- the choice -------------------------------------------------------------------------------------------------------


def test_hosts_fall_back_to_vxlan_and_say_why(lab: Lab) -> None:
    """Whatever this kernel has: each host tries as an ordinary user, and leaves nothing of the trial."""
    nodes = [lab.start(lab.add_host(number), number, 1, host_ct=2) for number in (1, 2)]
    obstacles = {f"cn00{number}": str(node.ask("try_wireguard")) for number, node in enumerate(nodes, 1)}
    for node in nodes:
        links = node.on.run("nsenter", "--target", str(node.holder), "--net", "ip", "-br", "link").stdout
        assert "br0" in links
        assert "try0" not in links
    choice = choose_tunnel(TunnelKind.AUTO, obstacles)
    if has_wireguard():
        assert obstacles == {"cn001": "", "cn002": ""}
        assert choice.kind is TunnelKind.WIREGUARD
    else:
        assert obstacles["cn001"] in ("Unknown device type", "Operation not supported")
        assert "since cn001 and 1 more can't make WireGuard" in choice.reason
        assert choice.kind is TunnelKind.VXLAN
    join(nodes, secrets=[SECRET, SECRET] if choice.kind is TunnelKind.WIREGUARD else [])
    (here,), (there,) = (node.guests for node in nodes)
    assert here.pings(there.ip)


# -- what passes, who can read it, and what does not pass -------------------------------------------------------------


@both
def test_what_passes_and_what_does_not(lab: Lab, kind: TunnelKind) -> None:
    """One cluster for all of it: it takes long to start inside a guest."""
    nodes, ends = start_two(lab, kind, host_ct=3)
    guests_talk_and_nobody_on_the_way_can_read_it(lab, nodes, kind)
    if kind is TunnelKind.WIREGUARD:
        keys_are_in_no_log_and_on_no_command_line(nodes)
    what_is_forged_under_a_hosts_address_and_port_is_dropped(nodes, ends, kind)
    a_host_speaks_for_its_own_guests_only(nodes, kind)


def guests_talk_and_nobody_on_the_way_can_read_it(lab: Lab, nodes: list[Node], kind: TunnelKind) -> None:
    (here,), (there,) = (node.guests for node in nodes)
    mtu = 1500 - OVERHEAD[kind]
    here.set_mtu(mtu + 1)
    there.serve(WORDS, "tcp", 7000)
    sniffing = lab.outside.python("sniff", "h1", WORDS)
    assert sniffing.stdout
    assert sniffing.stdout.readline() == "up\n"
    assert here.pings(there.ip, mtu)
    assert not here.pings(there.ip, mtu + 1)
    assert here.asks("tcp", there.ip) == WORDS
    sniffing.terminate()
    seen = json.loads(sniffing.communicate(timeout=20)[0])
    assert seen["packets"] > 6
    assert (seen["largest"], seen["fragments"]) == (1500, 0)
    assert (seen["readable"] > 0) == (kind is TunnelKind.VXLAN), seen


def keys_are_in_no_log_and_on_no_command_line(nodes: list[Node]) -> None:
    keys = derive_host_keys(SECRET.encode(), CLUSTER_ID, 1, (1, 2))
    words = nodes[0].logs()
    for pid in nodes[0].helpers().values():
        words += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
    assert f"vx0 peer {keys.public[2]} endpoint 10.99.0.2" in words
    assert "private-key @private" in words
    for form in (base64.b64encode(keys.private).decode(), keys.private.hex(), SECRET):
        assert form not in words


def what_is_forged_under_a_hosts_address_and_port_is_dropped(nodes: list[Node], ends: Ends, kind: TunnelKind) -> None:
    """The filters of the underside let it in: it comes from host 2's address and port."""
    (here,), (there,) = (node.guests for node in nodes)
    assert there.pings(here.ip)
    (_, address, port), (_, _, source_port), *_ = ends

    def forge(data: bytes) -> bool:
        forging = nodes[1].on.python("forge", source_port, address, port, data.hex())
        return arrives(here, lambda: (forging.communicate(timeout=20), nodes[1].on.sh("sleep 0.5")))

    assert forge(forge_vxlan(here.ip, there.ip)) == (kind is TunnelKind.VXLAN)
    handshake, transport = b"\x01\0\0\0" + bytes(144), b"\x04\0\0\0" + bytes(60)
    assert not any(forge(data) for data in (handshake, transport, b"words"))
    assert there.pings(here.ip)


def a_host_speaks_for_its_own_guests_only(nodes: list[Node], kind: TunnelKind) -> None:
    """Host 2, taken over, sends under its own key as a guest of host 3."""
    (here,), (there,) = (node.guests for node in nodes)
    assert arrives(here, lambda: there.pings(here.ip))
    inside = ("nsenter", "--target", str(nodes[1].holder), "--net")
    for command in ("nft flush ruleset", "ip address add 172.22.3.1/32 dev lo"):
        assert nodes[1].on.run(*inside, *command.split()).returncode == 0
    as_another = (*inside, "ping", "-n", "-c2", "-W1", "-I", "172.22.3.1", here.ip)
    assert arrives(here, lambda: nodes[1].on.run(*as_another)) == (kind is TunnelKind.VXLAN)
    assert arrives(here, lambda: there.pings(here.ip))


@needs_wireguard
def test_with_another_key_nothing_passes(lab: Lab) -> None:
    nodes, _ = start_two(lab, TunnelKind.WIREGUARD, secrets=(SECRET, "another secret"))
    (here,), (there,) = (node.guests for node in nodes)
    for guest, other in ((here, there), (there, here)):
        assert not arrives(other, lambda guest=guest, other=other: guest.pings(other.ip))  # type: ignore[misc]


def forge_vxlan(to: str, sender: str) -> bytes:
    """An echo request in a frame between the ends of a VXLAN tunnel (RFC 7348)."""
    echo = bytes((8, 0)) + struct.pack("!H", 0xF7FF) + bytes(4)  # its own checksum, over nothing else
    addresses = bytes(map(int, f"{sender}.{to}".split(".")))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(echo), 0, 0, 64, 1, 0)
    total = sum(struct.unpack("!10H", head + addresses))
    total = (total & 0xFFFF) + (total >> 16)
    packet = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + addresses + echo
    macs = b"".join(bytes.fromhex(make_mac(make_layout(2).gateway(host), kind=1).replace(":", "")) for host in (1, 2))
    return struct.pack("!II", 0x08000000, VNI << 8) + macs + b"\x08\x00" + packet
