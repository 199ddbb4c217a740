# SPDX-License-Identifier: Apache-2.0
"""A network for the guests of a workstation that root makes, in the host's own namespace: what it is, as data.

bridge chbr0 with 172.22.1.254/24, TAPs chtap1... that belong to one user, and for them NAT to one link. TAP j is for
the guest 172.22.1.j, in whichever cluster of the user. `host.sitefabric` does what the steps say, and can always undo
it: names of links and tables are fixed; only what of the host was changed, and how it was, has to be remembered.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface

from chslurm.addresses import GuestAddress, make_layout, make_mac
from chslurm.errors import ChslurmError, UsageError
from chslurm.filters import Realm
from chslurm.kinds import Mode
from chslurm.network import BRIDGE_OPTIONS, Tool
from chslurm.settings import parse_lines
from chslurm.sitefilters import NAMES_PORT, SSH_PORT, SiteRealm, make_site_filters, make_table_removal, name_tables
from chslurm.units import parse_count, quote

CONFIG_FILE = "/etc/charliecloud/config.sh"
BRIDGE = "chbr0"
TABLE = "chslurm_w"
DEFAULT_TAP_CT, MOST_TAPS = 4, 253

FIRST_NAMES_PORT, FIRST_SSH_PORT = 17000, 17300
"""Plus the number of a TAP: where a cluster answers its guest's questions for names, and passes on its ssh. Below the
ports that Linux gives to programs that ask for none."""

_HOST = 1  # a workstation is the only host of its clusters
_LAYOUT = make_layout(1)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_LINK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}", re.ASCII)
_TAP = re.compile(r"chtap([1-9][0-9]{0,2})", re.ASCII)
_TABLES = name_tables(TABLE)
_LISTS = "list tables\nlist chains\n" + "".join(f"list table {family} {table}\n" for family, table in _TABLES)
_TABLE = re.compile(rf"{TABLE}(_[a-z]+)?", re.ASCII)
_FAMILIES = frozenset(family for family, _ in _TABLES)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the administrator wrote down."""

    tap_owner: str  # name or number
    forward_to: str
    tap_ct: int


@dataclass(frozen=True, slots=True)
class Site:
    """One network, decided."""

    owner_uid: int
    forward_to: str
    tap_ct: int
    guarded: bool  # `forward_to` did not forward before: see `sitefilters`

    @property
    def guests(self) -> tuple[GuestAddress, ...]:
        """A guest for each TAP."""
        return tuple(make_site_guest(slot) for slot in range(1, self.tap_ct + 1))


@dataclass(frozen=True, slots=True)
class SiteStep:
    """Text that one tool reads, why, and what undoes it, in words."""

    what: str
    tool: Tool
    text: str
    undo: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A link as `ip -json -details` shows it."""

    name: str
    kind: str  # "bridge", "tun"...; empty for a real one
    mac: str
    master: str
    up: bool
    carrier: bool  # of a TAP: somebody has it open
    user: str  # a TAP's owner, as a name where there is one


def make_tap_name(slot: int) -> str:
    """Return the name of the TAP of a guest."""
    return f"chtap{slot}"


def find_slot(tap: str) -> int | None:
    """Return the number of a TAP of ours; None for any other name."""
    found = _TAP.fullmatch(tap)
    return int(found[1]) if found else None


def make_site_guest(slot: int) -> GuestAddress:
    """Return address and TAP of a guest."""
    return replace(_LAYOUT.guest(_HOST, slot), tap=make_tap_name(slot))


def parse_settings(text: str, name: str = CONFIG_FILE) -> Settings:
    """Return the settings in a file of `KEY=VALUE` lines, as a shell would read them, if that is all they are.

    Raises UsageError for whatever a shell would do more with, unknown and missing keys, and impossible values.
    """
    values = parse_lines(text, name, ("TAP_OWNER", "FWD_IFACE", "TAP_CT", "CHSLURM"))
    for key in ("TAP_OWNER", "FWD_IFACE"):
        if not values.get(key):
            raise UsageError(f"{name}: {key} is not set", hint=f"add a line {key}=...; see docs/operators.md")
    owner, link = values["TAP_OWNER"], values["FWD_IFACE"]
    if not _USER.fullmatch(owner):
        raise UsageError(f"{name}: TAP_OWNER {quote(owner)}: not a user", hint="use a name or a number")
    if not _LINK.fullmatch(link) or link in ("lo", BRIDGE) or find_slot(link):
        raise UsageError(f"{name}: FWD_IFACE {quote(link)}: not an interface to the outside", hint="see ip link")
    count = parse_count(values.get("TAP_CT") or str(DEFAULT_TAP_CT), f"{name}: TAP_CT", most=MOST_TAPS)
    return Settings(owner, link, count)


def make_steps(site: Site) -> tuple[SiteStep, ...]:
    """Return what makes the network, in order. Until the last step no link of it is up."""
    taps = [guest.tap for guest in site.guests]
    links = [
        f"link add {BRIDGE} address {_bridge_mac()} type bridge {BRIDGE_OPTIONS}",
        *(f"tuntap add dev {tap} mode tap user {site.owner_uid} vnet_hdr" for tap in taps),
        *(f"link set dev {link} addrgenmode none" for link in (BRIDGE, *taps)),
    ]
    up = [
        f"addr add {_LAYOUT.gateway(_HOST)}/24 brd + dev {BRIDGE}",
        *(f"link set dev {tap} master {BRIDGE} up" for tap in taps),
        f"link set dev {BRIDGE} up",
    ]
    steps = [
        SiteStep("links, down", Tool.IP, _lines(links), "links are deleted"),
        SiteStep("settings of these links", Tool.SYSCTL, _lines(_link_sysctls(taps)), "gone with the links"),
        SiteStep("filters and NAT", Tool.NFT, make_site_filters(_make_realm(site)), "deleted, after the links"),
    ]
    if site.guarded:
        undo = "set back to 0, unless ip_forward has been set to 1 since"
        text = f"{make_forwarding_key(site.forward_to)} = 1\n"
        steps.append(SiteStep(f"{site.forward_to} forwards, for guests alone", Tool.SYSCTL, text, undo))
    return (*steps, SiteStep("address; links are up", Tool.IP, _lines(up), "gone with the links"))


def make_link_removal(links: Iterable[str], unforward: str = "") -> tuple[SiteStep, ...]:
    """Return what removes `links`, and lets link `unforward` forward no more. It comes before the filters' removal."""
    steps = (SiteStep("links are deleted", Tool.IP, _lines(f"link del dev {link}" for link in links)),)
    if not unforward:
        return steps
    text = f"{make_forwarding_key(unforward)} = 0\n"
    return (*steps, SiteStep(f"{unforward} forwards no more", Tool.SYSCTL, text))


def make_rule_removal(tables: Iterable[tuple[str, str]]) -> SiteStep:
    """Return what removes `tables`."""
    removal = "".join(make_table_removal(family, table) for family, table in tables)
    return SiteStep("filters and NAT are removed", Tool.NFT, removal)


def make_forwarding_key(link: str) -> str:
    """Return the name of the setting that lets packets in from one link be forwarded."""
    return f"net/ipv4/conf/{link}/forwarding"


def find_own_links(links: Mapping[str, Link]) -> tuple[str, ...]:
    """Return the names of those links that are ours, the bridge last. Raises ChslurmError when a name is taken."""
    named = [link for name, link in links.items() if name == BRIDGE or find_slot(name)]
    for link in named:
        ours = link.mac == _bridge_mac() if link.name == BRIDGE else True
        if link.kind != ("bridge" if link.name == BRIDGE else "tun") or not ours:
            hint = "rename or remove it: this name is for chslurm's network"
            raise ChslurmError(
                f"can't use the name {link.name}: there is a link of that name that is not ours", hint=hint
            )
    return tuple(sorted((link.name for link in named), key=lambda name: (name == BRIDGE, find_slot(name) or 0)))


def find_own_tables(tables: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return family and name of those tables that are ours."""
    return tuple((family, name) for family, name in tables if family in _FAMILIES and _TABLE.fullmatch(name))


def check_addresses(addresses: Mapping[str, Sequence[str]]) -> None:
    """Raise ChslurmError when another link is in our network; `addresses` are those of each link, with prefix."""
    subnet = _LAYOUT.subnet(_HOST)
    for link, owned in addresses.items():
        for address in owned:
            if link != BRIDGE and IPv4Interface(address).network.overlaps(subnet):
                hint = "give that link another network"
                raise ChslurmError(f"can't use {subnet} for guests: {link} of this host has {address}", hint=hint)


def find_faults(site: Site, links: Mapping[str, Link], owners: Collection[str], addresses: Sequence[str]) -> list[str]:
    """Return what of the links is not as it should be. `owners` are the names of the owner's uid."""
    faults = []
    bridge = links.get(BRIDGE)
    if bridge is None or not bridge.up:
        faults.append(f"bridge {BRIDGE} is {'missing' if bridge is None else 'down'}")
    elif f"{_LAYOUT.gateway(_HOST)}/24" not in addresses:
        faults.append(f"bridge {BRIDGE} has not the address {_LAYOUT.gateway(_HOST)}/24")
    for guest in site.guests:
        tap = links.get(guest.tap)
        if tap is None:
            faults.append(f"{guest.tap} is missing")
        elif not tap.up or tap.master != BRIDGE:
            faults.append(f"{guest.tap} is {f'not in {BRIDGE}' if tap.up else 'down'}")
        elif tap.user not in owners:
            faults.append(f"{guest.tap} belongs to {tap.user or 'nobody'}")
    return faults


def render_site(site: Site, verb: str) -> str:
    """Return what root runs for a verb as text for `--explain`, as if all of the network was there to be removed."""
    links = [*(guest.tap for guest in site.guests), BRIDGE]
    removal = make_link_removal(links, site.forward_to if site.guarded else "")
    removal = (*removal, make_rule_removal(_TABLES))
    steps = {
        "start": make_steps(site),
        "stop": removal,
        "restart": (*removal, *make_steps(site)),
        "status": (
            SiteStep("looks only", Tool.IP, "link show\naddress show\n"),
            SiteStep("looks only", Tool.NFT, _LISTS),
        ),
    }
    return "\n".join(_render_step(number, step) for number, step in enumerate(steps[verb], start=1))


def _render_step(number: int, step: SiteStep) -> str:
    undone = f"    (undone: {step.undo})\n" if step.undo else ""
    return f"{number}. {step.what}, {step.tool}:\n" + "".join(f"    {x}\n" for x in step.text.splitlines()) + undone


def make_relay_ports(slot: int) -> dict[int, int]:
    """Return where in place of a port of the gateway this host's relays for one guest listen."""
    return {NAMES_PORT: FIRST_NAMES_PORT + slot, SSH_PORT: FIRST_SSH_PORT + slot}


def _make_realm(site: Site) -> SiteRealm:
    relays = sorted(port for guest in site.guests for port in make_relay_ports(guest.ip.packed[3]).values())
    realm = Realm(
        *(_LAYOUT, _HOST, Mode.WORKSTATION, site.guests),
        table=TABLE,
        bridge=BRIDGE,
        outside=site.forward_to,
        shared=True,
        relays=tuple(relays),
    )
    return SiteRealm(realm, site.owner_uid, site.guarded, FIRST_NAMES_PORT, FIRST_SSH_PORT)


def _bridge_mac() -> str:
    return make_mac(_LAYOUT.gateway(_HOST))


def _link_sysctls(taps: Sequence[str]) -> list[str]:
    bridge = {
        "forwarding": 1,  # of this link alone; `net.ipv4.ip_forward` would be of all that there are
        "rp_filter": 1,  # drops what claims to come from where it can't
        "arp_ignore": 1,  # the host's other addresses are none of the guests' business
        "send_redirects": 0,
        "accept_redirects": 0,
        "accept_source_route": 0,
        "proxy_arp": 0,
        "route_localnet": 0,
    }
    ipv4 = [f"net/ipv4/conf/{BRIDGE}/{key} = {value}" for key, value in bridge.items()]
    return [*(f"net/ipv6/conf/{link}/disable_ipv6 = 1" for link in (BRIDGE, *taps)), *ipv4]


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
