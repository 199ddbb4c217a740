# SPDX-License-Identifier: Apache-2.0
"""The nft rules that keep a node and the network of a job on it apart, as text. Frames are judged by others.

Loaded in the node's own namespace, in a table of the job's own: they are about the job's bridge and tunnel alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from chslurm.filters import make_set


def make_node_filters(table: str, bridge: str, port: int, vni: int | None, peers: Sequence[str]) -> str:
    """Return the tables of family inet: the node has no part in the bridge, and of the tunnel only nodes of the job.

    VXLAN asks nobody who they are. So its packets have to come from an address of the job's nodes, and on these no
    user can send to its port. The number of the VXLAN is bytes 4 to 6 of its header, behind 8 bytes of UDP (RFC 7348).
    WireGuard, without a `vni`, asks; but here, too, strangers are not listened to, and its port is this job's alone.
    All of it is said by two tables, one after the other, so that it hangs on no single rule, chain or table.
    """
    return "".join(
        _node_table(name, priority, bridge, port, vni, peers)
        for name, priority in ((table, "filter"), (f"{table}_again", "filter + 10"))
    )


def _node_table(table: str, priority: str, bridge: str, port: int, vni: int | None, peers: Sequence[str]) -> str:
    carried = f"udp dport {port}" if vni is None else f"udp dport {port} @th,96,24 {vni}"
    sets = "\n" + make_set("peers", "ipv4_addr", peers) if peers else ""
    arriving = f"\n        {carried} ip saddr != @peers drop\n        {carried} meta nfproto ipv6 drop" if peers else ""
    passing = f"\n        {carried} drop" if peers and vni is not None else ""
    leaving = f"\n        udp dport {port} meta skuid != 0 drop" if peers else ""
    return f"""\
table inet {table} {{{sets}
    chain input {{
        type filter hook input priority {priority}; policy accept
        iifname "{bridge}" drop{arriving}
    }}
    chain forward {{
        type filter hook forward priority {priority}; policy accept
        iifname "{bridge}" oifname != "{bridge}" drop
        iifname != "{bridge}" oifname "{bridge}" drop{passing}
    }}
    chain output {{
        type filter hook output priority {priority}; policy accept
        oifname "{bridge}" drop{leaving}
    }}
}}
"""


def make_job_tables_removal(table: str) -> str:
    """Return what removes all tables of a job from the node's namespace, those that are there."""
    tables = (
        ("inet", table),
        ("inet", f"{table}_again"),
        ("netdev", table),
        ("bridge", table),
        ("bridge", f"{table}_again"),
    )
    return "".join(f"add table {family} {name}\ndelete table {family} {name}\n" for family, name in tables)
