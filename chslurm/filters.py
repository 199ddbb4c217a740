# SPDX-License-Identifier: Apache-2.0
"""The nft rules of one host, as text: what may pass between guests, hosts and the outside; everything else is dropped.

Rules are loaded before any link is up, in namespaces of the cluster's own (see `network`), so they are never flushed.
"""

from __future__ import annotations

from collections.abc import Sequence

from chslurm.addresses import AddressLayout


def make_cluster_filters(layout: AddressLayout, host: int) -> str:
    """Guests reach guests and ping gateways of their own cluster, and nothing else.

    What passes through is not tracked: it would fill the one table that all users of the node share.
    """
    subnet, gateway = layout.subnet(host), layout.gateway(host)
    return f"""\
table inet chslurm {{
    set cluster {{
        type ipv4_addr; flags interval
        elements = {{ {", ".join(map(str, layout.join(1, layout.host_ct)))} }}
    }}
    chain untracked {{
        type filter hook prerouting priority raw; policy accept
        iifname {{ "br0", "vx0" }} ip daddr != {gateway} notrack
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop
        iifname "br0" oifname "br0" ip saddr {subnet} ip daddr {subnet} accept
        iifname "br0" oifname "vx0" ip saddr {subnet} ip daddr @cluster accept
        iifname "vx0" oifname "br0" ip saddr @cluster ip daddr {subnet} accept
    }}
    chain input {{
        type filter hook input priority filter; policy drop
        ct state established,related accept
        iifname {{ "br0", "vx0" }} ip saddr @cluster ip daddr {gateway} icmp type echo-request accept
        iifname "lo" accept
    }}
}}
"""


def make_workstation_filters(layout: AddressLayout, host: int) -> str:
    """Guests reach the outside, and at the gateway ping, names and ssh (see `host.relay`); nobody reaches them."""
    subnet, gateway = layout.subnet(host), layout.gateway(host)
    return f"""\
table inet chslurm {{
    chain forward {{
        type filter hook forward priority filter; policy drop
        iifname "br0" oifname "br0" ip saddr {subnet} ip daddr {subnet} accept
        iifname "br0" oifname "up0" ip saddr {subnet} accept
        iifname "up0" oifname "br0" ct state established,related accept
    }}
    chain input {{
        type filter hook input priority filter; policy drop
        ct state established,related accept
        iifname "br0" ip saddr {subnet} ip daddr {gateway} icmp type echo-request accept
        iifname "br0" ip saddr {subnet} ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
        iifname "br0" ip saddr {subnet} ip daddr {gateway} tcp dport 22 accept
        iifname "lo" accept
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept
        oifname "up0" masquerade
    }}
}}
"""


def make_uplink_filters(own_port: int, peers: Sequence[tuple[str, int]]) -> str:
    """Only the tunnels of the other hosts, by address and port: VXLAN itself asks nobody who they are."""
    elements = ", ".join(f"{address} . {port}" for address, port in peers)
    return f"""\
table inet chslurm {{
    set peers {{
        type ipv4_addr . inet_service
        elements = {{ {elements} }}
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop
    }}
    chain input {{
        type filter hook input priority filter; policy drop
        iifname "up0" udp dport {own_port} ip saddr . udp sport @peers accept
    }}
    chain output {{
        type filter hook output priority filter; policy drop
        oifname "up0" udp sport {own_port} ip daddr . udp dport @peers accept
    }}
}}
"""
