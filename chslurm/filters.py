# SPDX-License-Identifier: Apache-2.0
"""The nft rules of one host, as text: what may pass between guests, hosts and the outside; everything else is dropped.

Rules are loaded before any link is up, in namespaces of the cluster's own (see `network`), so they are never flushed.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, summarize_address_range

from chslurm.addresses import make_gateway, make_host_subnet


def make_cluster_filters(host: int, host_ct: int) -> str:
    """Guests reach guests and ping gateways of their own cluster, and nothing else.

    What passes through is not tracked: it would fill the one table that all users of the node share.
    """
    subnet, gateway = make_host_subnet(host), make_gateway(host)
    return f"""\
table inet chslurm {{
    set cluster {{
        type ipv4_addr; flags interval
        elements = {{ {", ".join(map(str, _cluster_subnets(host_ct)))} }}
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


def make_workstation_filters(host: int) -> str:
    """Guests reach the outside, and at the gateway ping, names and ssh (see `host.relay`); nobody reaches them."""
    subnet, gateway = make_host_subnet(host), make_gateway(host)
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


def _cluster_subnets(host_ct: int) -> list[IPv4Network]:
    """The subnets of hosts 1 to `host_ct`, neighbours joined."""
    blocks: dict[int, list[IPv4Network]] = {}
    for host in range(1, host_ct + 1):
        subnet = make_host_subnet(host)
        blocks.setdefault(subnet.network_address.packed[1], []).append(subnet)
    return [
        joined
        for block in blocks.values()
        for joined in summarize_address_range(block[0].network_address, block[-1].broadcast_address)
    ]
