# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hmac
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chslurm.addresses import MAX_HOSTS, make_layout
from chslurm.errors import ChslurmError
from chslurm.network import Place, Tool, make_host_network
from chslurm.plan import Mode, TunnelKind
from chslurm.tunnel import Peer, make_tunnel_steps
from chslurm.wgdevice import PRIVATE_KEY, WireGuardPeer, encode_device, render_device
from chslurm.wireguard import choose_tunnel, derive_host_keys, derive_private_key

SECRET = b"the authority of a cluster"
CLUSTER = "0123456789abcdef"
HOSTS = st.integers(1, MAX_HOSTS)


# -- keys -------------------------------------------------------------------------------------------------------------


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of SHA-256, in its own words."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")


def test_the_private_key_is_known() -> None:
    key = derive_private_key(SECRET, CLUSTER, 2)
    assert key == hkdf(SECRET, CLUSTER.encode(), b"chslurm WireGuard private key of host 2")
    # as it was when this was written: hosts of one cluster must agree, whatever their libraries
    assert key.hex() == "b8970f670e2e09dd5af00f9ed5f3964e8ae1994a378ae3f6c250654bce809dad"


def test_public_keys_are_those_of_the_private_ones() -> None:
    keys = derive_host_keys(SECRET, CLUSTER, 2, range(1, 4))
    assert keys.private == derive_private_key(SECRET, CLUSTER, 2)
    assert sorted(keys.public) == [1, 2, 3]
    # the other side of X25519: what two hosts agree on, each with its own private and the other's public key
    for here, there in ((1, 2), (3, 1)):
        agreed = set()
        for own, other in ((here, there), (there, here)):
            private = X25519PrivateKey.from_private_bytes(derive_private_key(SECRET, CLUSTER, own))
            public = X25519PrivateKey.from_private_bytes(derive_private_key(SECRET, CLUSTER, other)).public_key()
            assert base64.b64decode(keys.public[other]) == public.public_bytes_raw()
            agreed.add(private.exchange(public))
        assert len(agreed) == 1
    assert keys.public[2] == "DysPtalstiK/GSflRuJDU5gTvGaWc/CGcCKu7+d6RU4="


@given(
    st.tuples(st.binary(min_size=1), st.text("0123456789abcdef", min_size=16, max_size=16), HOSTS),
    st.tuples(st.binary(min_size=1), st.text("0123456789abcdef", min_size=16, max_size=16), HOSTS),
)
def test_each_host_of_each_cluster_has_its_own_key(one: tuple[bytes, str, int], two: tuple[bytes, str, int]) -> None:
    assert (derive_private_key(*one) == derive_private_key(*two)) == (one == two)
    secret, cluster, host = one
    others = {(secret + b"x", cluster, host), (secret, cluster[::-1] + "0", host), (secret, cluster, host % 9 + 1)} - {
        one
    }
    assert all(derive_private_key(*other) != derive_private_key(*one) for other in others)


def test_private_keys_are_shown_nowhere() -> None:
    keys = derive_host_keys(SECRET, CLUSTER, 1, range(1, 4))
    peers = [Peer(host, f"10.0.0.{host}", 4000 + host) for host in (1, 2, 3)]
    network = make_host_network(1, 1, Mode.CLUSTER, 3)
    shown = repr(keys) + "".join(step.text for step in make_tunnel_steps(network, peers, 1, 1500, keys.public))
    assert PRIVATE_KEY in shown
    assert keys.public[2] in shown
    for host in (1, 2, 3):
        secret = derive_private_key(SECRET, CLUSTER, host)
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)):
            assert form not in shown


# -- allowed addresses ------------------------------------------------------------------------------------------------


def allowed_of(host: int, host_ct: int) -> list[IPv4Network]:
    """What host `host` allows its peers, from the text of its step."""
    peers = [Peer(number, "10.0.0.1", number) for number in range(1, host_ct + 1)]
    keys = {number: f"KEY-{number}" for number in range(1, host_ct + 1)}
    steps = make_tunnel_steps(make_host_network(host, 1, Mode.CLUSTER, host_ct), peers, 1, 1500, keys)
    (text,) = [step.text for step in steps if (step.place, step.tool) == (Place.GUESTS, Tool.WG)]
    words = [line.split() for line in text.splitlines() if " peer " in line]
    return [IPv4Network(network) for line in words for network in line[6].split(",")]


@given(st.integers(2, 300), st.data())
def test_allowed_addresses_are_disjoint_and_complete(host_ct: int, data: st.DataObject) -> None:
    own = data.draw(st.integers(1, host_ct))
    allowed = allowed_of(own, host_ct)
    ordered = sorted(allowed)
    assert len(allowed) == host_ct - 1
    assert all(one.broadcast_address < two.network_address for one, two in pairwise(ordered))
    for host in range(1, host_ct + 1):
        guest = make_layout(host_ct).guest(host, data.draw(st.integers(1, 250))).ip
        assert sum(guest in network for network in allowed) == (host != own)


# -- what the kernel is told ------------------------------------------------------------------------------------------


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Read netlink attributes as the kernel does."""
    while data:
        length, kind = struct.unpack_from("=HH", data)
        assert 4 <= length <= len(data)
        yield kind & 0x3FFF, data[4:length]
        data = data[length + -length % 4 :]


@given(st.lists(st.tuples(HOSTS, st.binary(min_size=32, max_size=32), st.integers(1, 65535)), max_size=600))
def test_the_kernel_is_told_what_the_text_says(told: list[tuple[int, bytes, int]]) -> None:
    subnet = make_layout(MAX_HOSTS).subnet
    peers = [
        WireGuardPeer(base64.b64encode(key).decode(), f"10.0.{host % 256}.1", port, (subnet(host),))
        for host, key, port in told
    ]
    messages = list(encode_device(render_device("vx0", 40002, peers), bytes(range(32))))
    assert all(len(message) < 1 << 16 for message in messages)
    assert dict(attributes(messages[0])) == {2: b"vx0\0", 3: bytes(range(32)), 6: struct.pack("=H", 40002)}
    seen = []
    for message in messages[1:]:
        (name_kind, name), (peers_kind, nested) = attributes(message)
        assert (name_kind, name, peers_kind) == (2, b"vx0\0", 8)
        for _, peer in attributes(nested):
            fields = dict(attributes(peer))
            (allowed,) = (dict(attributes(one)) for _, one in attributes(fields[9]))
            family, port, address = struct.unpack("=H2s4s8x", fields[4])
            assert (family, allowed[1], fields[3]) == (2, struct.pack("=H", 2), struct.pack("=I", 2))
            network = IPv4Network((allowed[2], allowed[3][0]))
            seen.append((fields[1], str(IPv4Address(address)), int.from_bytes(port, "big"), network))
    assert seen == [(key, f"10.0.{host % 256}.1", port, subnet(host)) for host, key, port in told]


@pytest.mark.parametrize("line", ["vx0 peer KEY", "vx0 private-key /etc/passwd", "# nothing"])
def test_another_setting_is_refused(line: str) -> None:
    with pytest.raises(ChslurmError, match="no setting of a device"):
        list(encode_device(line, b""))


# -- the choice -------------------------------------------------------------------------------------------------------


@given(st.sampled_from(TunnelKind), st.lists(st.sampled_from(["", "", "Unknown device type"]), min_size=2))
def test_wireguard_only_where_all_can(asked: TunnelKind, obstacles: list[str]) -> None:
    choice = choose_tunnel(asked, {f"cn{number:03}": why for number, why in enumerate(obstacles, 1)})
    if asked is TunnelKind.AUTO:
        assert choice.kind is (TunnelKind.VXLAN if any(obstacles) else TunnelKind.WIREGUARD)
    else:
        assert choice.kind is asked
    assert ("neither encrypts nor authenticates" in choice.reason) == (choice.kind is TunnelKind.VXLAN)


def test_the_reason_names_who_cannot() -> None:
    obstacles = {"cn001": "", "cn002": "Unknown device type", "cn003": "", "cn004": "Operation not permitted"}
    assert choose_tunnel(TunnelKind.AUTO, obstacles).reason == (
        "hosts are joined by VXLAN, since cn002 and 1 more can't make WireGuard (Unknown device type); VXLAN neither"
        " encrypts nor authenticates: root on a machine of the nodes' network can read and forge packets"
    )
