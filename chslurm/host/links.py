# SPDX-License-Identifier: Apache-2.0
"""The links of the network namespace we are in, as `ip` tells them: anybody may ask."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from chslurm.host.process import run
from chslurm.site import Link

_TIMEOUT_S = 10.0


def read_links() -> dict[str, Link]:
    """Return all links by name. Raises ChslurmError when `ip` is missing or refuses."""
    return {entry["ifname"]: _make_link(entry) for entry in _ask_ip("-details", "link", "show")}


def read_addresses() -> dict[str, tuple[str, ...]]:
    """Return the IPv4 addresses of each link, with prefix. Raises ChslurmError."""
    return {
        entry["ifname"]: tuple(f"{info['local']}/{info['prefixlen']}" for info in entry["addr_info"] if info)
        for entry in _ask_ip("-4", "address", "show")
    }


def find_link_alias(name: str) -> str:
    """Return what root has written to a link that is up; empty when there is none. Raises ChslurmError."""
    if not has_link(name):
        return ""
    entry = next(iter(_ask_ip("link", "show", "dev", name)), {})
    return str(entry.get("ifalias", "")) if "UP" in entry.get("flags", []) else ""


def has_link(name: str) -> bool:
    """Say whether there is a link of this name, without starting a program."""
    return any(name == link for _, link in socket.if_nameindex())


def count_sent(name: str) -> int:
    """Return how many frames have been sent to a link of this name, 0 when there is none: the kernel tells anybody."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        link, _, counts = line.partition(":")
        if link.strip() == name:
            return int(counts.split()[9])
    return 0


def _make_link(entry: dict[str, Any]) -> Link:
    info = entry.get("linkinfo", {})
    flags = entry.get("flags", [])
    return Link(
        name=entry["ifname"],
        kind=info.get("info_kind", ""),
        mac=entry.get("address", ""),
        master=entry.get("master", ""),
        up="UP" in flags,
        carrier="LOWER_UP" in flags,
        user=str(info.get("info_data", {}).get("user", "")),
    )


def _ask_ip(*words: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(run(["ip", "-json", *words], timeout_s=_TIMEOUT_S).stdout or "[]")
    return [entry for entry in listed if entry]
