# SPDX-License-Identifier: Apache-2.0
"""`ssh_config` of a job directory: with `ssh -F`, `scp -F` and `rsync -e` guests are reached by name (ssh_config(5)).

No port is open anywhere: the connection is made by the guest's host, inside the guests' network, and our ProxyCommand
is the way there. Who a guest is says the cluster's own authority; the key is the cluster's. In a network that root has
made, guests are reached by their addresses, too, without us.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from chslurm.jobdir import JobDir
from chslurm.meta import make_guest_name
from chslurm.plan import Mode, NetworkKind, Plan

_NAMES_A_LINE = 500


def render_ssh_config(plan: Plan, program: Sequence[str]) -> str:
    """Return the file. `program` joins its standard streams to the guest that one more word names."""
    job_dir = JobDir(PurePath(plan.job_dir))
    keys = job_dir.keys(plan.cluster_id)
    names = [make_guest_name(guest.id) for guest in plan.guests]
    blocks = (names[start : start + _NAMES_A_LINE] for start in range(0, len(names), _NAMES_A_LINE))
    proxy = f"{shlex.join(program)} ".replace("%", "%%") + "%h"
    settings = (
        ("User", "charlie"),
        ("IdentityFile", _quote(keys / "id_ed25519")),
        ("IdentitiesOnly", "yes"),
        ("UserKnownHostsFile", _quote(keys / "known_hosts")),
        ("GlobalKnownHostsFile", "/dev/null"),
        ("StrictHostKeyChecking", "yes"),
        ("UpdateHostKeys", "no"),
        ("CheckHostIP", "no"),
        ("GSSAPIAuthentication", "no"),
        ("ServerAliveInterval", "15"),
        ("LogLevel", "ERROR"),
        ("ProxyCommand", proxy),  # the last: not for addresses
    )
    text = (
        f"# Guests of cluster {plan.cluster_id}, while it runs: ssh -F {shlex.quote(str(job_dir.ssh_config))} chgu0\n"
    )
    for block in blocks:
        text += _render_block(block, settings)
    if plan.network is NetworkKind.SITE and plan.mode is Mode.WORKSTATION:  # the host itself reaches them
        addresses = [str(plan.address(guest).ip) for guest in plan.guests]
        text += _render_block(addresses, settings[:-1])
    return text


def _render_block(names: Sequence[str], settings: Sequence[tuple[str, str]]) -> str:
    return f"Host {' '.join(names)}\n" + "".join(f"    {name} {value}\n" for name, value in settings)


def _quote(path: PurePath) -> str:
    """A path as ssh reads it: in quotes, with its percent signs doubled."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
