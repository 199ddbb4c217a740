# SPDX-License-Identifier: Apache-2.0
"""The nft rules of a network that root makes in the host's own namespace, as text.

The host has other links and other rules: what is said here is about our links alone, in tables of our own, and a
packet that we accept may still be dropped by others. Everything is loaded at once, before any of our links is up.

Frames are judged as those of any cluster (see `linkfilters`). Packets are judged by two tables of family inet, one
after the other, which say the same: where they are routed, come in, or go out. Neither has a policy but to accept, so
that a mistake in them can't cut off the host. On the way out the socket's owner counts: nobody but the owner of the
TAPs, and root, can connect to a guest, or answer one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chslurm.filters import Family, Realm, make_set
from chslurm.linkfilters import make_bridge_filters, make_tap_filters

NAMES_PORT, SSH_PORT = 53, 22


@dataclass(frozen=True, slots=True)
class SiteRealm:
    """Whom and what the rules are about."""

    realm: Realm
    owner_uid: int
    guarded: bool  # the link to the outside forwards only since we said so: for nobody but our guests
    names_port: int  # a relay of guest j listens at this port + j of the gateway, one for ssh at `ssh_port` + j
    ssh_port: int


def name_tables(table: str) -> tuple[tuple[Family, str], ...]:
    """Return family and name of each table."""
    again = f"{table}_again"
    return (
        (Family.INET, table),
        (Family.INET, again),
        (Family.NETDEV, table),
        (Family.BRIDGE, table),
        (Family.BRIDGE, again),
    )


def make_site_filters(site: SiteRealm) -> str:
    """Return all tables, in place of those that are there, as one transaction."""
    removal = "".join(make_table_removal(family, table) for family, table in name_tables(site.realm.table))
    frames = make_tap_filters(site.realm) + make_bridge_filters(site.realm)
    return f"{removal}{_packets(site)}{_packets_again(site)}{frames}"


def make_table_removal(family: str, table: str) -> str:
    """Return what removes a table, whether it is there or not: older nft have no `destroy`."""
    return f"add table {family} {table}\ndelete table {family} {table}\n"


def _packets(site: SiteRealm) -> str:
    """The first table, which also leads guests to the relays, hides them from the outside, and refuses users."""
    realm = site.realm
    br, gateway = f'"{realm.bridge}"', realm.gateway
    others = f"oifname {br} meta skuid != {{ 0, {site.owner_uid} }}"
    refusing = f"{others} meta l4proto tcp reject with tcp reset\n        {others} reject"
    names, ssh = _map(site, site.names_port), _map(site, site.ssh_port)
    return f"""\
table inet {realm.table} {{
{_judged(site, "filter", refusing)}
    chain relayed {{
        type nat hook prerouting priority dstnat; policy accept
        iifname {br} ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport {NAMES_PORT} redirect to :{names}
        iifname {br} ip daddr {gateway} tcp dport {SSH_PORT} redirect to :{ssh}
    }}
    chain hidden {{
        type nat hook postrouting priority srcnat; policy accept
        oifname "{realm.outside}" ip saddr {realm.subnet} masquerade
    }}
}}
"""


def _packets_again(site: SiteRealm) -> str:
    """The second table: the same, after the first; and no guest's packet leaves that was not hidden."""
    realm = site.realm
    refusing = f'oifname "{realm.bridge}" meta skuid != {{ 0, {site.owner_uid} }} drop'
    return f"""\
table inet {realm.table}_again {{
{_judged(site, "filter + 10", refusing)}
    chain bare {{
        type filter hook postrouting priority srcnat + 10; policy accept
        oifname "{realm.outside}" ip saddr {realm.subnet} drop
    }}
}}
"""


def _judged(site: SiteRealm, priority: str, refusing: str) -> str:
    """What both tables say."""
    realm = site.realm
    br, out, net, gateway = f'"{realm.bridge}"', f'"{realm.outside}"', realm.subnet, realm.gateway
    return f"""\
{make_set("never", "ipv4_addr", realm.never, interval=True)}
{make_set("relays", "ipv4_addr . inet_proto . inet_service", _relays(site))}
    chain forward {{
        type filter hook forward priority {priority}; policy accept
        iifname {br} oifname {br} ip saddr {net} ip daddr {net} accept
        iifname {br} oifname {out} ip saddr {net} ip daddr != @never ct state new,established,related accept
        iifname {out} oifname {br} ip daddr {net} ct state established,related accept
        iifname {br} drop
        oifname {br} drop
{_guard(site)}    }}
    chain input {{
        type filter hook input priority {priority}; policy accept
        iifname {br} ip saddr {net} ip daddr {gateway} ct state established,related accept
        iifname {br} ip saddr {net} ip daddr {gateway} icmp type echo-request accept
        iifname {br} ip daddr {gateway} ct status dnat ip saddr . meta l4proto . th dport @relays accept
        iifname {br} drop
        iifname != {{ {br}, "lo" }} ip daddr {gateway} drop
    }}
    chain output {{
        type filter hook output priority {priority}; policy accept
        {refusing}
        oifname {br} ip saddr {gateway} ct state established,related accept
        oifname {br} ip saddr {gateway} ip daddr {net} meta skuid {{ 0, {site.owner_uid} }} accept
        oifname {br} drop
    }}"""


def _guard(site: SiteRealm) -> str:
    """What comes from the outside goes on to guests only, not to other networks of this host.

    Answers, and what somebody has mapped to a machine behind this one, pass: a container engine that was started after
    us works.
    """
    if not site.guarded:
        return ""
    out = f'"{site.realm.outside}"'
    return f"""\
        iifname {out} ct state established,related accept
        iifname {out} ct status dnat accept
        iifname {out} drop
"""


def _relays(site: SiteRealm) -> Iterator[str]:
    for guest in site.realm.guests:
        slot = guest.ip.packed[3]
        for protocol, port in (("tcp", site.names_port), ("udp", site.names_port), ("tcp", site.ssh_port)):
            yield f"{guest.ip} . {protocol} . {port + slot}"


def _map(site: SiteRealm, port: int) -> str:
    ports = ", ".join(f"{guest.ip} : {port + guest.ip.packed[3]}" for guest in site.realm.guests)
    return f"ip saddr map {{ {ports} }}"
