# SPDX-License-Identifier: Apache-2.0
"""Keys of one cluster: made for it, on the host, and gone with it. No image holds any.

The cluster is a certificate authority of its own: guests trust every host key it signed, so that each host can make the
keys of its own guests, and `known_hosts` is one line however many there are.

Import this where keys are made, not above: cryptography takes long to load, and no QEMU shall wait for it.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chslurm.errors import ChslurmError
from chslurm.guest_files import ClusterKeys, HostIdentity
from chslurm.meta import make_guest_name
from chslurm.plan import Guest, Plan

GUEST_PATTERNS = "chgu*,!chgu*host,172.??.*.*"
"""Where the authority counts: names and addresses of guests, not the hosts' own sshd."""

_FOREVER = (1 << 64) - 1  # a guest's clock may be wrong


def make_cluster_keys(cluster_id: str) -> ClusterKeys:
    """Return new keys."""
    authority, own = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    return ClusterKeys(
        authority=_render_private(authority),
        private=_render_private(own),
        public=f"{_render_public(own)} charlie@{cluster_id}\n",
        known_hosts=f"@cert-authority {GUEST_PATTERNS} {_render_public(authority)} cluster {cluster_id}\n",
    )


def make_host_identity(plan: Plan, guest: Guest, keys: ClusterKeys) -> HostIdentity:
    """Return a new host key of a guest, certified for its name and address. Raises ChslurmError for damaged keys."""
    key = Ed25519PrivateKey.generate()
    name, address = make_guest_name(guest.id), str(plan.address(guest).ip)
    certificate = (
        serialization.SSHCertificateBuilder()
        .public_key(key.public_key())
        .type(serialization.SSHCertificateType.HOST)
        .key_id(name.encode())
        .valid_principals([name.encode(), address.encode()])
        .valid_after(0)
        .valid_before(_FOREVER)
        .sign(_parse_private(keys.authority))
    )
    return HostIdentity(
        _render_private(key), f"{_render_public(key)} {name}\n", f"{certificate.public_bytes().decode()}\n"
    )


def _render_private(key: Ed25519PrivateKey) -> str:
    form = serialization.PrivateFormat.OpenSSH
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _render_public(key: Ed25519PrivateKey) -> str:
    form = serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, form).decode()


def _parse_private(text: str) -> Ed25519PrivateKey:
    try:
        key = serialization.load_ssh_private_key(text.encode(), None)
    except ValueError as error:
        raise ChslurmError(f"can't read the cluster's keys: {error}") from error
    assert isinstance(key, Ed25519PrivateKey)
    return key
