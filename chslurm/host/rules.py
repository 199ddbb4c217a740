# SPDX-License-Identifier: Apache-2.0
"""The rules of this host as `nft` lists them to root: ours, their digest, and others' that hold for our guests, too."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from chslurm.host.process import run
from chslurm.site import find_own_tables

NFT_TIMEOUT_S = 10.0

Tables = tuple[tuple[str, str], ...]
"""Family and name of each."""


def read_own_tables() -> Tables:
    """Return the tables that are ours. Raises ChslurmError."""
    listed = _ask_nft("list", "tables")
    return find_own_tables((entry["table"]["family"], entry["table"]["name"]) for entry in listed if "table" in entry)


def digest_own_rules() -> str:
    """Return a digest of all our rules as the kernel has them. Raises ChslurmError."""
    told = [
        entry
        for family, table in sorted(read_own_tables())
        for entry in _ask_nft("--stateless", "--numeric", "list", "table", family, table)
        if "metainfo" not in entry
    ]
    return hashlib.sha256(json.dumps(_sort_elements(told), sort_keys=True).encode()).hexdigest()


def find_closed_chains() -> list[str]:
    """Return the chains of others that drop whatever they do not know when it is forwarded. Raises ChslurmError."""
    chains = [entry["chain"] for entry in _ask_nft("list", "chains") if "chain" in entry]
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and not find_own_tables([(chain["family"], chain["table"])])
    ]


def _sort_elements(value: Any) -> Any:
    """The kernel lists the elements of a set in any order."""
    if isinstance(value, list):
        return [_sort_elements(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: sorted(part, key=lambda element: json.dumps(element, sort_keys=True))
        if key in ("elem", "set") and isinstance(part, list)
        else _sort_elements(part)
        for key, part in value.items()
    }


def _ask_nft(*words: str) -> list[dict[str, Any]]:
    answer = run(["nft", "--json", *words], timeout_s=NFT_TIMEOUT_S).stdout
    listed: list[dict[str, Any]] = json.loads(answer)["nftables"] if answer.strip() else []
    return listed
