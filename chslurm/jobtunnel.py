# SPDX-License-Identifier: Apache-2.0
"""What nodes of a SLURM job need to know of each other for their tunnel: addresses, and the keys of WireGuard.

All keys follow from one secret of the site, which every node has and only root can read. So no key is exchanged; and
who is root on a node of the site can have the keys of every job.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from ipaddress import AddressValueError, IPv4Address

from chslurm.errors import ChslurmError, UsageError
from chslurm.slurmjob import SlurmJob
from chslurm.units import quote
from chslurm.wireguard import HostKeys, derive_host_keys

MOST_NODES_FILE_BYTES = 1 << 20

_SECRET = re.compile(r"[A-Za-z0-9+/]{42,4096}={0,2}\s*", re.ASCII)
_LEAST_SECRET_BYTES, _LEAST_DIFFERENT_BYTES = 32, 16  # of 32 at random, fewer differ in one of 10^16 files
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", re.ASCII)
_PURPOSE = "chslurm network of a SLURM job, version 1"


def parse_secret(text: str, name: str) -> bytes:
    """Return the secret of the site, which is in base64. Raises UsageError, which tells nothing of it."""
    hint = "make it with: head -c 32 /dev/urandom | base64"
    try:
        secret = base64.b64decode(text.strip(), validate=True) if _SECRET.fullmatch(text) else b""
    except binascii.Error:
        secret = b""
    if len(secret) < _LEAST_SECRET_BYTES:
        raise UsageError(f"can't use {name}: not {_LEAST_SECRET_BYTES} bytes or more in one line of base64", hint=hint)
    if len(set(secret)) < _LEAST_DIFFERENT_BYTES:
        raise UsageError(f"can't use {name}: its bytes are not random", hint=hint)
    return secret


def derive_job_keys(secret: bytes, job: SlurmJob) -> HostKeys:
    """Return the keys of this node; no other job has any of them, also when SLURM begins again with its numbers."""
    return derive_host_keys(secret, _make_context(job), job.host, range(1, len(job.nodes) + 1))


def make_shown_keys(job: SlurmJob) -> dict[int, str]:
    """Return what stands for the public keys where steps are only shown."""
    return {number: f"PUBLIC-KEY-OF-{node}" for number, node in enumerate(job.nodes, start=1)}


def parse_nodes(text: str, name: str) -> dict[str, str]:
    """Return the IPv4 address of each name, from lines as in /etc/hosts: an address, names. Raises UsageError."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        address, *names = line.partition("#")[0].split() or [""]
        if not address:
            continue
        if not names or not _is_address(address) or not all(map(_NAME.fullmatch, names)):
            raise UsageError(
                f"{name} line {number}: {quote(line)}: not an IPv4 address of a node, and its names",
                hint="as in /etc/hosts",
            )
        for node in names:
            if found.setdefault(node, address) != address:
                raise UsageError(f"{name} line {number}: {node} has two addresses", hint="keep one of them")
    return found


def pick_addresses(nodes: Sequence[str], known: Mapping[str, str], name: str) -> list[str]:
    """Return the address of each node, in order. Raises ChslurmError when one has none, or one of another node."""
    missing = next((node for node in nodes if node not in known), None)
    if missing:
        raise ChslurmError(f"can't find the address of {missing}: not in {name}")
    addresses = [known[node] for node in nodes]
    if len(set(addresses)) < len(addresses):
        raise ChslurmError(f"can't use {name}: two nodes of the job have the same address")
    return addresses


def _make_context(job: SlurmJob) -> str:
    """All that nodes of one job have in common; short, as it goes into each key."""
    nodes = sha256(",".join(job.nodes).encode()).hexdigest()
    return f"{_PURPOSE}: job {job.id} of uid {job.uid} on {nodes}"


def _is_address(text: str) -> bool:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        return False
    return not (address.is_loopback or address.is_multicast or address.is_unspecified or address.is_reserved)
