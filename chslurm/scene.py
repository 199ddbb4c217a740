# SPDX-License-Identifier: Apache-2.0
"""Who is who when a network is checked, and what is tried: rows of a table, and the probes of each.

A row is an attack in one of three states of the attacking guest's address: its own, that of a guest on the next host,
that of the node itself. A probe is one frame, connection or datagram.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from chslurm.addresses import AddressLayout, GuestAddress, make_layout
from chslurm.plan import Guest, Host, Mode, NetworkKind, Plan, TunnelKind
from chslurm.trial import Door, HostWord


class State(StrEnum):
    """Whose address an attacker uses."""

    OWN = "its own"
    NEXT = "next host's guest"
    NODE = "node's"


class Control(StrEnum):
    """How a row shows that what it tries would arrive if nothing kept it back."""

    OFF = "filters off"  # the same once more, without filters
    NODE = "from the node"  # the same from a process on the node, for which the namespace is what isolates
    GUEST = "from a guest"  # the same door, from a guest of the cluster
    ITSELF = "itself"  # what is to arrive
    NONE = ""


class Way(StrEnum):
    """How a probe is made."""

    FRAME = "frame"  # by root of a guest
    DOOR = "door"  # a TCP connection by a guest
    PING = "ping"  # by a guest
    NODE_DATAGRAM = "datagram"  # UDP by a process on a node
    STRANGE_DATAGRAM = "strange datagram"  # the same, by a process of another user
    NODE_DOOR = "node's door"  # a TCP connection by it
    TABLE = "table"  # a guest's own table of neighbours is looked at


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `why_not`: it can't be tried here."""

    id: str  # of the requirement
    tried: str
    state: State = State.OWN
    control: Control = Control.OFF
    why_not: str = ""
    why_no_control: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """One try. `sender` is a guest's number, or a host's; `controlled`: it has to arrive in the control."""

    number: int
    row: Row
    way: Way
    sender: int
    payload: bytes = b""
    address: str = ""
    port: int = 0
    controlled: bool = True


@dataclass(frozen=True, slots=True)
class Site:
    """One host as it is seen in a check."""

    host: Host
    word: HostWord
    guests: tuple[tuple[int, GuestAddress], ...]
    tunnel: Door | None = None

    @property
    def node(self) -> str:
        """The address of the node, in the real network."""
        return self.word.addresses[0] if self.word.addresses else "192.0.2.1"


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that probes are made of."""

    cluster_id: str
    mode: Mode
    network: NetworkKind
    vni: int
    layout: AddressLayout
    sites: tuple[Site, ...]
    tunnel_kind: TunnelKind | None = None  # None: one host, no tunnel
    short: bool = False
    second_user: str = ""  # of each node, who is not the one that checks

    @property
    def by_prolog(self) -> bool:
        """Whether root has made the network for this job: then nobody but root can look at the gateway."""
        return self.network is NetworkKind.SITE and self.mode is Mode.CLUSTER

    @property
    def guests(self) -> tuple[tuple[int, GuestAddress], ...]:
        """All of them."""
        return tuple(guest for site in self.sites for guest in site.guests)

    def following(self, site: Site) -> Site | None:
        """The next host, None when there is one only."""
        return self.sites[site.host.number % len(self.sites)] if len(self.sites) > 1 else None

    def address(self, site: Site, state: State) -> str:
        """The address by which the attacking guest of a host lies."""
        if state is State.OWN:
            return str(site.guests[0][1].ip)
        if state is State.NODE:
            return site.node
        layout = self.layout if self.layout.host_ct > 1 else make_layout(2)
        return str(layout.guest(site.host.number % layout.host_ct + 1, 1).ip)


def make_scene(
    plan: Plan,
    words: dict[int, HostWord],
    tunnels: dict[int, Door],
    kind: TunnelKind | None,
    *,
    short: bool,
    second_user: str = "",
) -> Scene:
    """Return the scene from the plan and what each host has said."""
    given = {number: word.vxlan for number, word in words.items() if word.vxlan[0] and word.addresses}
    tunnels = tunnels | {number: (words[number].addresses[0], port) for number, (port, _) in given.items()}
    vni = next((vni for _, vni in given.values()), plan.vni)

    def place(guest: Guest) -> tuple[int, GuestAddress]:
        return guest.id, plan.address(guest)

    sites = tuple(
        Site(host, words[host.number], tuple(map(place, plan.guests_of(host))), tunnels.get(host.number))
        for host in plan.hosts
    )
    return Scene(plan.cluster_id, plan.mode, plan.network, vni, plan.layout, sites, kind, short, second_user)
