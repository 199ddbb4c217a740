# SPDX-License-Identifier: Apache-2.0
"""WireGuard between the hosts of a cluster: whether it is used, keys, peers. For the device itself see `wgdevice`.

Every host derives the key pairs of all hosts from one secret of the cluster (HKDF, RFC 5869; X25519, RFC 7748), so that
no key is exchanged, and who has the secret has all keys.

Each peer is allowed the network of its own guests and nothing else. The kernel sends there what is for that network,
under that peer's key, and drops what comes under that key with a source anywhere else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from chslurm.kinds import TunnelKind
from chslurm.wgdevice import KEY_BYTES

_UNSAFE = "VXLAN neither encrypts nor authenticates: root on a machine of the nodes' network can read and forge packets"


@dataclass(frozen=True, slots=True)
class HostKeys:
    """One host's private key, and the public keys of all hosts by number."""

    private: bytes = field(repr=False)
    public: Mapping[int, str]  # base64, as wg(8) shows them


@dataclass(frozen=True, slots=True)
class Choice:
    """How the hosts are joined, and why, for the user."""

    kind: TunnelKind
    reason: str


def choose_tunnel(asked: TunnelKind, obstacles: Mapping[str, str]) -> Choice:
    """Choose from what every host said: name -> why it can't make WireGuard, empty when it can.

    All hosts choose alike, as all know the same. A host that can't, though it must, has failed before.
    """
    unable = [name for name, why in obstacles.items() if why]
    match asked:
        case TunnelKind.VXLAN:
            return Choice(TunnelKind.VXLAN, f"hosts are joined by VXLAN, as asked; {_UNSAFE}")
        case TunnelKind.AUTO if unable:
            more = f" and {len(unable) - 1} more" if len(unable) > 1 else ""
            why = f"{unable[0]}{more} can't make WireGuard ({obstacles[unable[0]]})"
            return Choice(TunnelKind.VXLAN, f"hosts are joined by VXLAN, since {why}; {_UNSAFE}")
        case TunnelKind.AUTO:
            why = "which all of them can make"
        case _:
            why = "as asked"
    return Choice(TunnelKind.WIREGUARD, f"hosts are joined by WireGuard, {why}: encrypted and authenticated")


def derive_host_keys(secret: bytes, cluster_id: str, own: int, hosts: Iterable[int]) -> HostKeys:
    """Return the keys of host number `own`; `secret` is known to the hosts of this cluster only, `hosts` are all."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # long to load: no QEMU waits for it

    def publish(host: int) -> str:
        key = X25519PrivateKey.from_private_bytes(derive_private_key(secret, cluster_id, host))
        return base64.b64encode(key.public_key().public_bytes_raw()).decode()

    return HostKeys(derive_private_key(secret, cluster_id, own), {host: publish(host) for host in hosts})


def derive_private_key(secret: bytes, cluster_id: str, host: int) -> bytes:
    """Return the private key of one host: 32 bytes, another for each host of each cluster."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    purpose = f"chslurm WireGuard private key of host {host}"
    return HKDF(SHA256(), KEY_BYTES, salt=cluster_id.encode(), info=purpose.encode()).derive(secret)
