# SPDX-License-Identifier: Apache-2.0
"""The nft rules of one host for frames, as text: what a guest may send and get, at its TAP and in the bridge.

A guest sends from its own MAC and IPv4 address only, to guests of its own host, or through the gateway to wherever its
cluster reaches; and it asks and answers ARP as itself. It gets what is for itself. No other frame passes: no IPv6, no
VLAN, no broadcast but ARP's, no multicast, no DHCP, nor any other protocol.

Each of that is said in two tables at least, so that no single rule, chain or table is what everything hangs on:

    sent by a guest     family netdev, at the ingress of its TAP      family bridge, prerouting and input
    to a guest          family bridge, forward and output             family bridge, postrouting, in a second table
    from other hosts    family netdev, at the ingress of the tunnel   family inet (see `filters`)
    from the outside    family netdev, at the ingress of its link     family inet
    to the gateway      both of the first line                        family inet

No state is kept: an answer over TCP is known by its ACK. The rules are the same for all guests, who stand in sets: a
host loads those of 253 in 30 ms. The EtherType is always matched in the frame itself: by `ether type`, not by `meta
protocol`, which of a tagged frame tells what is behind the tag.
"""

from __future__ import annotations

from collections.abc import Mapping

from chslurm.errors import ChslurmError
from chslurm.filters import Family, Realm, make_set
from chslurm.kinds import Mode

BROADCAST = "ff:ff:ff:ff:ff:ff"
_ARP = "ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4"  # Ethernet and IPv4
_DHCP = "udp dport { 67, 68 } drop"


def check_refusals(refused: Mapping[Family, str]) -> None:
    """Raise ChslurmError when a kernel refuses more families of filters than guests can be held in without.

    Packets need family inet; frames one of the others, each of which holds in what a guest sends.
    """
    frames = {Family.NETDEV, Family.BRIDGE}
    if Family.INET in refused or frames <= refused.keys():
        words = "; ".join(f"family {family}: {told}" for family, told in refused.items())
        hint = "this host's kernel needs nf_tables with family inet, and one of netdev and bridge"
        raise ChslurmError(f"can't filter what guests send: {words}", hint=hint)


def render_refusals(refused: Mapping[Family, str]) -> str:
    """Return what a user should know of filters that are missing; empty when all are there."""
    return "; ".join(
        f"what guests send and get is filtered in fewer places: no filters of family {family} here: {told}"
        for family, told in refused.items()
    )


def make_tap_filters(realm: Realm) -> str:
    """Return the table of family netdev that judges what guests send. The TAPs must be there."""
    taps = ", ".join(guest.tap for guest in realm.guests)
    return f"""\
table netdev {realm.table} {{
{_sets(realm, sending=True)}
{_sent(realm)}
    chain arriving {{
        type filter hook ingress devices = {{ {taps} }} priority filter; policy drop
        jump sent
    }}
}}
"""


def make_bridge_filters(realm: Realm) -> str:
    """Return the tables of family bridge: one judges what guests send, and what they get; one the latter again."""
    ports = make_set("ports", "ifname", [_quote(guest.tap) for guest in realm.guests]) + "\n" if realm.shared else ""
    arriving, leaving = _leave(realm, "iifname"), _leave(realm, "oifname")
    return f"""\
table bridge {realm.table} {{
{ports}{_sets(realm, sending=True, getting=True)}
{_sent(realm)}
{_got(realm)}
    chain prerouting {{
        type filter hook prerouting priority filter; policy drop
{arriving}        jump sent
    }}
    chain input {{
        type filter hook input priority filter; policy drop
{arriving}{_unless_remote(realm, "sent")}    }}
    chain forward {{
        type filter hook forward priority filter; policy drop
{leaving}        jump got
    }}
    chain output {{
        type filter hook output priority filter; policy drop
{leaving}{_unless_remote(realm, "got")}    }}
}}
table bridge {realm.table}_again {{
{ports}{_sets(realm, getting=True)}
{_got(realm)}
    chain postrouting {{
        type filter hook postrouting priority filter; policy drop
{leaving}        jump got
    }}
}}
"""


def make_tunnel_link_filters(realm: Realm, tunnel_mac: str | None) -> str:
    """Return what judges frames from other hosts: from their networks, to a guest here or to the gateway. No ARP.

    A tunnel that has no Ethernet, and so no MAC, carries packets alone.
    """
    kind = f"ether type ip ether daddr {tunnel_mac}" if tunnel_mac else "meta protocol ip"
    return f"""\
table netdev {realm.table}_tunnel {{
{_others(realm)}
{make_set("local", "ipv4_addr", [guest.ip for guest in realm.guests])}
{_to_gateway(realm)}
    chain arriving {{
        type filter hook ingress device "{realm.tunnel}" priority filter; policy drop
        udp dport {{ 67, 68 }} drop
        {kind} ip saddr @others ip daddr @local accept
        {kind} ip saddr @others ip daddr {realm.gateway} goto to_gateway
    }}
}}
"""


def make_outside_link_filters(realm: Realm, address: str) -> str:
    """Return what judges frames from the outside: to the address behind which guests are hidden, and to no guest."""
    return f"""\
table netdev {realm.table}_outside {{
    chain arriving {{
        type filter hook ingress device "{realm.outside}" priority filter; policy drop
        tcp flags & (syn | ack) == syn drop
        ether type ip ip daddr {address} accept
        ether type arp accept
    }}
}}
"""


def _sent(realm: Realm) -> str:
    """The chain `sent` accepts what guests may send. That it is from the guest it seems to be from comes first."""
    mac = realm.gateway_mac
    beyond = f"\n        ether daddr {mac} ip daddr {far} accept" if (far := _beyond(realm)) else ""
    itself = "iifname . ether saddr . arp saddr ip @members iifname . arp saddr ether . arp saddr ip @members"
    return f"""\
    chain sent {{
        ether type ip iifname . ether saddr . ip saddr @members goto sent_ip
        {_ARP} {itself} goto sent_arp
    }}
    chain sent_ip {{
        {_DHCP}
        ether daddr {mac} ip daddr {realm.gateway} goto to_gateway
        ether daddr . ip daddr @neighbours accept{beyond}
    }}
    chain sent_arp {{
        ether daddr {BROADCAST} arp operation request arp daddr ip @local accept
        ether daddr . arp daddr ip @neighbours arp operation {{ request, reply }} accept
        ether daddr {mac} arp daddr ip {realm.gateway} arp operation {{ request, reply }} accept
    }}
{_to_gateway(realm)}"""


def _got(realm: Realm) -> str:
    """The chain `got` accepts what guests may get: what is for them, from where it can come."""
    mac = realm.gateway_mac
    beyond = f"\n        ether saddr {mac} ip saddr {far} accept" if (far := _beyond(realm)) else ""
    own = f"ether saddr {mac} arp saddr ip {realm.gateway} arp saddr ether {mac}"
    theirs = "ether saddr . arp saddr ip @neighbours arp saddr ether . arp saddr ip @neighbours"
    return f"""\
    chain got {{
        ether type ip oifname . ether daddr . ip daddr @members goto got_ip
        {_ARP} ether daddr {BROADCAST} arp operation request oifname . arp daddr ip @owners goto got_arp
        {_ARP} arp operation {{ request, reply }} oifname . ether daddr . arp daddr ip @members goto got_arp
    }}
    chain got_ip {{
        {_DHCP}
        ether saddr {mac} ip saddr {realm.gateway} accept
        ether saddr . ip saddr @neighbours accept{beyond}
    }}
    chain got_arp {{
        {theirs} accept
        {own} accept
    }}"""


def _to_gateway(realm: Realm) -> str:
    """The chain `to_gateway`: echoes, answers to what the user asks of guests from the host, relayed names and ssh."""
    relayed = """
        meta l4proto { tcp, udp } th dport 53 accept
        tcp dport 22 accept"""
    if realm.relays:
        ports = ", ".join(map(str, realm.relays))
        relayed += f"\n        meta l4proto {{ tcp, udp }} th dport {{ {ports} }} accept"
    return f"""\
    chain to_gateway {{
        icmp type {{ echo-request, echo-reply, destination-unreachable, time-exceeded }} accept
        tcp flags & (syn | ack) != syn accept{relayed if realm.mode is Mode.WORKSTATION else ""}
    }}"""


def _beyond(realm: Realm) -> str:
    """Where guests reach through the gateway, and are reached from."""
    if realm.mode is Mode.WORKSTATION:
        return "!= @never"
    return "@others" if realm.others else ""


def _sets(realm: Realm, *, sending: bool = False, getting: bool = False) -> str:
    guests = realm.guests
    sets = [
        make_set("members", "ifname . ether_addr . ipv4_addr", [f"{_quote(g.tap)} . {g.mac} . {g.ip}" for g in guests]),
        make_set("neighbours", "ether_addr . ipv4_addr", [f"{g.mac} . {g.ip}" for g in guests]),
    ]
    if sending:
        sets.append(make_set("local", "ipv4_addr", [*(g.ip for g in guests), realm.gateway]))
    if getting:
        sets.append(make_set("owners", "ifname . ipv4_addr", [f"{_quote(g.tap)} . {g.ip}" for g in guests]))
    if realm.mode is Mode.WORKSTATION:
        sets.append(make_set("never", "ipv4_addr", realm.never, interval=True))
    elif realm.others:
        sets.append(_others(realm))
    return "\n".join(sets)


def _others(realm: Realm) -> str:
    return make_set("others", "ipv4_addr", realm.others, interval=True)


def _unless_remote(realm: Realm, chain: str) -> str:
    """What the bridge takes for itself, or sends, is judged as all else; there is none when it is nobody's."""
    return "" if realm.remote else f"        jump {chain}\n"


def _leave(realm: Realm, link: str) -> str:
    """The rule that lets pass what is none of ours, where others have bridges, too."""
    return f"        {link} != @ports accept\n" if realm.shared else ""


def _quote(name: str) -> str:
    return f'"{name}"'
