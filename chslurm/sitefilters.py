# SPDX-License-Identifier: Apache-2.0
"""The nft rules of a network that root makes in the host's own namespace, as text.

The host has other links and other rules: what is said here is about our links alone, in tables of our own, and a
packet that we accept may still be dropped by others. Everything is loaded at once, before any of our links is up.

Frames are judged twice, at the ingress of each TAP (family netdev) and in the bridge, packets once more where they are
routed, come in, or go out. On the way out the socket's owner counts: nobody but the owner of the TAPs, and root, can
connect to a guest, or answer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from chslurm.addresses import GuestAddress

FAMILIES = ("inet", "netdev", "bridge")
NAMES_PORT, SSH_PORT = 53, 22

NEVER = "0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 172.22.255.0/24, 224.0.0.0/3"
"""What is not outside: this host, link-local services such as a cloud's (RFC 3927), multicast and reserved."""

_ARP = "ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4"  # Ethernet and IPv4


@dataclass(frozen=True, slots=True)
class SiteRealm:
    """Whom and what the rules are about."""

    table: str
    bridge: str
    gateway: IPv4Address
    gateway_mac: str
    subnet: IPv4Network
    guests: tuple[GuestAddress, ...]
    forward_to: str  # the link to the outside
    owner_uid: int
    guarded: bool  # `forward_to` forwards only since we said so: for nobody but our guests
    names_port: int  # a relay of guest j listens at this port + j of the gateway, one for ssh at `ssh_port` + j
    ssh_port: int


def make_site_filters(realm: SiteRealm) -> str:
    """Return all tables, in place of those that are there, as one transaction."""
    tables = {"inet": _packets(realm), "netdev": _taps(realm), "bridge": _frames(realm)}
    return "".join(
        f"{make_table_removal(family, realm.table)}table {family} {realm.table} {{\n{tables[family]}}}\n"
        for family in FAMILIES
    )


def make_table_removal(family: str, table: str) -> str:
    """Return what removes a table, whether it is there or not: older nft have no `destroy`."""
    return f"add table {family} {table}\ndelete table {family} {table}\n"


def _packets(realm: SiteRealm) -> str:
    br, out, net, gateway = f'"{realm.bridge}"', f'"{realm.forward_to}"', realm.subnet, realm.gateway
    ports = ", ".join(
        f"{guest.ip} . {protocol} . {port}" for guest in realm.guests for protocol, port in _relays(realm, guest)
    )
    names, ssh = _map(realm, realm.names_port), _map(realm, realm.ssh_port)
    users = f"{{ 0, {realm.owner_uid} }}"
    return f"""\
    set never {{
        type ipv4_addr; flags interval
        elements = {{ {NEVER}, {net} }}
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept
        iifname {br} oifname {br} ip saddr {net} ip daddr {net} accept
        iifname {br} oifname {out} ip saddr {net} ip daddr != @never accept
        iifname {out} oifname {br} ip daddr {net} ct state established,related accept
        iifname {br} drop
        oifname {br} drop
{_guard(realm)}    }}
    chain input {{
        type filter hook input priority filter; policy accept
        iifname {br} ip saddr {net} ip daddr {gateway} ct state established,related accept
        iifname {br} ip saddr {net} ip daddr {gateway} icmp type echo-request accept
        iifname {br} ip daddr {gateway} ct status dnat ip saddr . meta l4proto . th dport {{ {ports} }} accept
        iifname {br} drop
    }}
    chain output {{
        type filter hook output priority filter; policy accept
        oifname {br} meta skuid != {users} meta l4proto tcp reject with tcp reset
        oifname {br} meta skuid != {users} reject
        oifname {br} ip saddr {gateway} ct state established,related accept
        oifname {br} ip saddr {gateway} ip daddr {net} meta skuid {users} accept
        oifname {br} ip saddr {gateway} icmp type {{ echo-reply, destination-unreachable, time-exceeded }} accept
        oifname {br} drop
    }}
    chain relayed {{
        type nat hook prerouting priority dstnat; policy accept
        iifname {br} ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport {NAMES_PORT} redirect to :{names}
        iifname {br} ip daddr {gateway} tcp dport {SSH_PORT} redirect to :{ssh}
    }}
    chain hidden {{
        type nat hook postrouting priority srcnat; policy accept
        oifname {out} ip saddr {net} masquerade
    }}
"""


def _guard(realm: SiteRealm) -> str:
    """What comes from the outside goes on to guests only, not to other networks of this host.

    Answers, and what somebody has mapped to a machine behind this one, pass: a container engine that was started after
    us works.
    """
    if not realm.guarded:
        return ""
    out = f'"{realm.forward_to}"'
    return f"""\
        iifname {out} ct state established,related accept
        iifname {out} ct status dnat accept
        iifname {out} drop
"""


def _taps(realm: SiteRealm) -> str:
    devices = ", ".join(guest.tap for guest in realm.guests)
    return f"""\
{_members(realm)}
    chain arriving {{
        type filter hook ingress devices = {{ {devices} }} priority filter; policy drop
{_sent()}
    }}
"""


def _frames(realm: SiteRealm) -> str:
    ports = _set("ports", "ifname", (f'"{guest.tap}"' for guest in realm.guests))
    itself = f"ether saddr {realm.gateway_mac} arp saddr ether {realm.gateway_mac} arp saddr ip {realm.gateway}"
    local = ", ".join(str(guest.ip) for guest in realm.guests)
    return f"""\
{ports}
{_members(realm)}
    chain prerouting {{
        type filter hook prerouting priority filter; policy drop
        iifname != @ports accept
{_sent()}
    }}
    chain postrouting {{
        type filter hook postrouting priority filter; policy drop
        oifname != @ports accept
        ether type ip oifname . ether daddr . ip daddr @members accept
        {_ARP} oifname . ether daddr . arp daddr ip @members accept
        {_ARP} ether daddr ff:ff:ff:ff:ff:ff arp operation request {itself} accept
        {_ARP} ether daddr ff:ff:ff:ff:ff:ff arp operation request arp saddr ip {{ {local} }} accept
    }}
"""


def _sent() -> str:
    """What a guest sends comes from the MAC and the address that are its own, over IPv4, and there is nothing else."""
    arp = "iifname . ether saddr . arp saddr ip @members iifname . arp saddr ether . arp saddr ip @members"
    return f"""\
        ether type ip iifname . ether saddr . ip saddr @members accept
        {_ARP} {arp} accept"""


def _members(realm: SiteRealm) -> str:
    members = (f'"{guest.tap}" . {guest.mac} . {guest.ip}' for guest in realm.guests)
    return _set("members", "ifname . ether_addr . ipv4_addr", members)


def _set(name: str, kind: str, elements: Iterable[str]) -> str:
    return f"    set {name} {{\n        type {kind}\n        elements = {{ {', '.join(elements)} }}\n    }}"


def _relays(realm: SiteRealm, guest: GuestAddress) -> Sequence[tuple[str, int]]:
    slot = guest.ip.packed[3]
    return (
        ("tcp", realm.names_port + slot),
        ("udp", realm.names_port + slot),
        ("tcp", realm.ssh_port + slot),
    )


def _map(realm: SiteRealm, port: int) -> str:
    ports = ", ".join(f"{guest.ip} : {port + guest.ip.packed[3]}" for guest in realm.guests)
    return f"ip saddr map {{ {ports} }}"
