# SPDX-License-Identifier: Apache-2.0
"""The files one guest gets over its control port before it boots any further: they appear in its /run/chslurm.

identity.sh       who it is, as assignments for its boot scripts
environment.sh    what its users and jobs see, as exports
groups            the user's groups, `gid:name`, a line each; `gid:` when there are too many for all names
shares            passthrough directories, `data1 rw`, a line each
jobargs           the job script's arguments, quoted for a shell, on one line
authorized_keys, id_ed25519*, known_hosts      the cluster's own key, and whom to trust
ssh_host_ed25519_key*                          this guest's, signed by the cluster
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from chslurm.environment import find_secret_proxies, quote_shell, render_exports
from chslurm.meta import make_guest_name
from chslurm.plan import Group, Guest, Plan

_GROUP_NAMES_BYTES = 32 << 10
"""Names of groups beyond this are left out: an order to a guest has 64 KiB, and access goes by number."""


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file of the guest; its owner is root."""

    name: str
    mode: int
    text: str


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """What authenticates one cluster, as OpenSSH writes it."""

    authority: str  # private key that signs the guests' host keys; no guest ever sees it
    private: str  # charlie's
    public: str
    known_hosts: str


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """What one guest's ssh server shows."""

    private: str
    public: str
    certificate: str


def make_guest_files(
    plan: Plan, guest: Guest, keys: ClusterKeys, identity: HostIdentity, *, mtu: int, environment: Mapping[str, str]
) -> tuple[GuestFile, ...]:
    """Return the files of one guest. `environment` is the host's own: proxies with a password are only there."""
    own = _describe_guest(plan, guest, mtu)
    shown = _describe_surroundings(plan, guest) | plan.environment | find_secret_proxies(environment)
    return (
        GuestFile("identity.sh", 0o644, "".join(f"{name}={quote_shell(value)}\n" for name, value in own.items())),
        GuestFile("environment.sh", 0o644, render_exports(shown)),
        GuestFile("groups", 0o644, _render_groups(plan.user.groups)),
        GuestFile("shares", 0o644, "".join(f"{share.tag} rw\n" for share in plan.shares)),
        GuestFile("jobargs", 0o644, shlex.join(plan.job.arguments) + "\n" if plan.job.arguments else ""),
        GuestFile("authorized_keys", 0o644, keys.public),
        GuestFile("known_hosts", 0o644, keys.known_hosts),
        GuestFile("id_ed25519", 0o600, keys.private),
        GuestFile("id_ed25519.pub", 0o644, keys.public),
        GuestFile("ssh_host_ed25519_key", 0o600, identity.private),
        GuestFile("ssh_host_ed25519_key.pub", 0o644, identity.public),
        GuestFile("ssh_host_ed25519_key-cert.pub", 0o644, identity.certificate),
    )


def _render_groups(groups: Iterable[Group]) -> str:
    lines, room = [], _GROUP_NAMES_BYTES
    for group in groups:
        room -= len(msgspec.json.encode(group.name))
        lines.append(f"{group.gid}:{group.name if room > 0 else ''}\n")
    return "".join(lines)


def _describe_guest(plan: Plan, guest: Guest, mtu: int) -> dict[str, str]:
    """What the boot scripts are told."""
    address = plan.address(guest)
    return {
        "CH_GUEST_ID": str(guest.id),
        "CH_GUEST_CT": str(len(plan.guests)),
        "CH_GUEST_NAME": make_guest_name(guest.id),
        "CH_GUEST_MAC": address.mac,
        "CH_GUEST_IP": str(address.ip),
        "CH_GUEST_PREFIX": str(address.prefix_bits),
        "CH_GATEWAY_IP": str(address.gateway),
        "CH_MTU": str(mtu),
        "CH_MODE": plan.mode,
        "CH_INTERACTIVE": str(int(plan.job.interactive)),
        "CH_UID": str(plan.user.uid),
        "CH_DATA_CT": str(len(plan.shares)),
        "CH_HAVE_JOB": str(int(plan.job.script is not None)),
        "CH_SYNC": str(int(plan.sync)),
        "CH_VGA": str(int(plan.vga)),
    }


def _describe_surroundings(plan: Plan, guest: Guest) -> dict[str, str]:
    """What jobs and users see: the documented variables."""
    address = plan.address(guest)
    return {
        "CH_META": "/ch/meta",
        "CH_TMP": "/ch/tmp",
        "CH_OPT": "/ch/opt",
        "CH_GUEST_ID": str(guest.id),
        "CH_GUEST_CT": str(len(plan.guests)),
        "CH_GUEST_MAC": address.mac,
        "CH_GUEST_IP": str(address.ip),
        "CH_GATEWAY_IP": str(address.gateway),
        **{f"CH_{share.tag.upper()}": f"/ch/{share.tag}" for share in plan.shares},
    }
