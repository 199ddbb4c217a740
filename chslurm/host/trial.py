# SPDX-License-Identifier: Apache-2.0
"""The head's part in a check of the network: turn after turn it tells guests and hosts what to do, and collects.

It is called by the head's loop and never waits itself: `_story` is a generator that yields what it waits for.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import PurePath

import msgspec
from msgspec.structs import replace

from chslurm.addresses import make_mac
from chslurm.errors import ChslurmError
from chslurm.filters import Family
from chslurm.host.files import write_file
from chslurm.isolation import make_probes
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind, Order, OrderKind
from chslurm.meta import make_guest_name
from chslurm.plan import NetworkKind, Plan, TunnelKind, plan_digest
from chslurm.scene import Probe, Scene, Way, make_scene
from chslurm.trial import (
    HEARD,
    REPORT_MAX_BYTES,
    SNIFFED,
    Door,
    GuestOrders,
    GuestPart,
    GuestReport,
    HostOrders,
    HostPart,
    HostWord,
    parse_report,
    parse_word,
    unpack,
)
from chslurm.verdicts import Pass, is_tried
from chslurm.wireguard import choose_tunnel

_TURN_S = 120.0
"""A turn takes some seconds; guests under emulation on a busy node are slow."""

_SETTLE_S = 1.5
"""What was sent has arrived after so long, or never does."""

_QUIET_S = 8.0
"""So long after doors and pings guests ask for no gateway any more, and what comes to it can be counted."""

_PATIENCE_S = 6.0
_LATER_PATIENCE_S = 3.0
"""How long doors and pings have, in the first pass and in those that follow."""


@dataclass(slots=True)
class _Wait:
    """What the story waits for: `missing` names who has not done his part yet."""

    missing: Callable[[], list[str]]
    timeout_s: float = _TURN_S


class NetworkTrial:
    """The passes of one check; `scene` and `passes` are its results."""

    control = False
    """Whether its network is to be one without any filter."""

    def __init__(
        self,
        without: Sequence[tuple[Family, ...]],
        note: Callable[[str], None],
        *,
        short: bool,
        second_user: str = "",
    ) -> None:
        self.scene: Scene | None = None
        self.passes: list[Pass] = []
        self._todo, self._note, self._short, self._second_user = without, note, short, second_user
        self._orders: list[Order] = []
        self._words: dict[int, dict[int, HostWord]] = {}  # by turn and host
        self._reports: dict[int, GuestReport] = {}  # of this turn, by guest
        self._started: set[int] = set()
        self._tunnels: dict[int, Door] = {}
        self._obstacles: dict[str, str] = {}
        self._turn = 0
        self._waiting: _Wait | None = None
        self._since_s: float | None = None
        self._over = False

    def begin(self, plan: Plan) -> None:
        """Take in what was decided."""
        self._plan, self._dir = plan, JobDir(PurePath(plan.job_dir))
        self._going = self._story()
        self._tell_guests()  # in the place of what an earlier check has left

    def hear(self, event: Event) -> None:
        """Take in what a host says."""
        if event.kind is EventKind.TUNNEL_OFFER and 1 <= event.host <= len(self._plan.hosts):
            self._tunnels[event.host] = (event.address, event.port)
            self._obstacles[self._plan.host(event.host).name] = event.text
        elif event.kind is EventKind.JOB_STARTED:
            self._started.add(event.guest)
        elif event.kind is EventKind.TRIAL and (word := parse_word(event.text)):
            self._words.setdefault(word.turn, {})[event.host] = word

    def take_turn(self, now_s: float) -> list[Order]:
        """Go on as far as can be without waiting. Raises ChslurmError when somebody does not do his part."""
        while not self._over:
            if self._waiting:
                self._since_s = now_s if self._since_s is None else self._since_s
                missing = self._waiting.missing()
                if missing and now_s > self._since_s + self._waiting.timeout_s:
                    names = ", ".join(missing[:8])
                    raise ChslurmError(f"can't check the network: no word in {self._waiting.timeout_s:g} s of: {names}")
                if missing:
                    break
            self._waiting, self._since_s = next(self._going, None), None
            self._over = self._waiting is None
        orders, self._orders = self._orders, []
        return orders

    def _story(self) -> Iterator[_Wait]:
        yield self._hosts(0)
        yield _Wait(self._find_late_guests, self._plan.deadlines.ready_s + _TURN_S)
        words, kind = self._words[0], None
        if len(self._plan.hosts) > 1 and self._plan.network is NetworkKind.SITE:
            kind = TunnelKind.VXLAN if any(word.vxlan[0] for word in words.values()) else TunnelKind.WIREGUARD
        elif len(self._plan.hosts) > 1:
            kind = choose_tunnel(self._plan.tunnel, self._obstacles).kind
        self.scene = make_scene(
            self._plan, words, self._tunnels, kind, short=self._short, second_user=self._second_user
        )
        for number, without in enumerate(self._todo):
            probes = make_probes(self.scene, number)
            what = f"without filters of family {', '.join(without)}" if without else "all filters"
            what = "a network without filters" if self.control else what
            self._note(f"pass {number + 1} of {len(self._todo)}, {what}: {len(probes)} probes")
            self.passes.append(Pass(number, without, probes))
            yield from self._go_through(self.passes[-1])
        self._tell_guests(end=True)

    def _go_through(self, this: Pass) -> Iterator[_Wait]:
        yield from self._count(this, report=True)  # who has reported once sees what comes from now on
        guests, hosts = _share_out(this)
        self._tell_hosts(this, {number: part for number, (part, _) in hosts.items()})
        counted = self.scene is not None and self.scene.by_prolog
        parts = {number: part for number, (part, _, _) in guests.items()}
        yield from self._act({number: replace(part, frames=()) for number, part in parts.items()} if counted else parts)
        for number, (_, doors, pings) in guests.items():
            report = self._reports[number]
            this.answered |= {doors[place].number for place in report.doors if place < len(doors)}
            this.answered |= {pings[place].number for place in report.pings if place < len(pings)}
        for number, (_, tried) in hosts.items():
            word = self._words[self._turn][number]
            opened, this.obstacle = unpack(word.opened), this.obstacle or word.obstacle
            this.answered |= {probe.number for place, probe in enumerate(tried) if place in opened}
        if counted:
            yield from self._settle(_QUIET_S)
            before = yield from self._count(this, report=False)
            yield from self._act({number: GuestPart(frames=part.frames) for number, part in parts.items()})
        yield from self._settle()
        after = yield from self._count(this, report=True)
        self._collect(this)
        if counted:
            this.carried = {self._plan.host(host).name: count - before[host] for host, count in after.items()}

    def _act(self, parts: dict[int, GuestPart]) -> Iterator[_Wait]:
        """Let guests do their parts, and hosts have done theirs."""
        self._tell_guests(parts)
        yield self._hosts(self._turn)
        yield self._guests()
        for number, part in parts.items():
            if self._reports[number].sent != len(part.frames):
                raise ChslurmError(f"can't check the network: guest {number} has not sent all that it should")

    def _count(self, this: Pass, *, report: bool) -> Generator[_Wait, None, dict[int, int]]:
        """Begin a turn, in which guests report or not; return how many frames each host's gateway has got by then."""
        self._tell_hosts(this)
        if report:
            self._tell_guests()
        yield self._hosts(self._turn)
        if report:
            yield self._guests()
        return {host: word.carried or 0 for host, word in self._words[self._turn].items()}

    def _collect(self, this: Pass) -> None:
        senders = {probe.number: probe.sender for probe in this.probes if probe.way is Way.FRAME}
        for guest, report in self._reports.items():
            seen = {probe for number, probe in report.seen if number == this.number}
            this.seen[make_guest_name(guest)] = {probe for probe in seen if senders.get(probe, -1) != guest}
        for host, word in self._words[self._turn].items():
            name = self._plan.host(host).name
            this.seen[f"bridge of {name}"] = set(unpack(word.seen.get(SNIFFED, "0")))
            this.seen[f"process on {name}"] = set(unpack(word.seen.get(HEARD, "0")))
        for probe in (probe for probe in this.probes if probe.way is Way.TABLE):
            found = self._reports[probe.sender].neighbours.get(probe.address)
            if found not in (make_mac(IPv4Address(probe.address)), None):
                this.seen.setdefault("tables", set()).add(probe.number)

    # -- what is told and waited for ----------------------------------------------------------------------------------

    def _tell_hosts(self, this: Pass, parts: dict[int, HostPart] | None = None) -> None:
        """Begin the next turn."""
        self._turn += 1
        hosts = {str(number): part for number, part in (parts or {}).items()}
        text = msgspec.json.encode(HostOrders(self._turn, this.number, this.without, hosts, self._second_user))
        write_file(self._dir.trial, text)
        self._orders.append(Order(OrderKind.TRIAL, text=plan_digest(text)))

    def _tell_guests(self, parts: dict[int, GuestPart] | None = None, *, end: bool = False) -> None:
        """The same turn, for guests."""
        self._reports.clear()
        guests = {str(number): part for number, part in (parts or {}).items()}
        turn = self._turn + end
        write_file(
            self._dir.orders, msgspec.json.encode(GuestOrders(turn, self._plan.cluster_id[:8], guests, end)), 0o644
        )

    def _hosts(self, turn: int) -> _Wait:
        def missing() -> list[str]:
            there: Collection[int] = self._words.get(turn, {})
            return [host.name for host in self._plan.hosts if host.number not in there]

        return _Wait(missing)

    def _guests(self) -> _Wait:
        turn = self._turn

        def missing() -> list[str]:
            for guest in self._plan.guests:
                if guest.id not in self._reports and (text := _read(self._dir.report(guest.id, turn))):
                    report = parse_report(text, turn)
                    if report is None:
                        raise ChslurmError(f"can't check the network: guest {guest.id} reports what makes no sense")
                    self._reports[guest.id] = report
            return [make_guest_name(guest.id) for guest in self._plan.guests if guest.id not in self._reports]

        return _Wait(missing)

    def _find_late_guests(self) -> list[str]:
        return [make_guest_name(guest.id) for guest in self._plan.guests if guest.id not in self._started]

    def _settle(self, settle_s: float | None = None) -> Iterator[_Wait]:
        until_s = time.monotonic() + (_SETTLE_S if settle_s is None else settle_s)
        yield _Wait(lambda: ["time"] if time.monotonic() < until_s else [])


def _share_out(
    this: Pass,
) -> tuple[dict[int, tuple[GuestPart, list[Probe], list[Probe]]], dict[int, tuple[HostPart, list[Probe]]]]:
    """Return what each guest and each host does, and the probes behind doors and pings, in their order."""
    guests, hosts = {}, {}
    tried_now = [probe for probe in this.probes if is_tried(probe, this.number)]
    ways = {way: [probe for probe in tried_now if probe.way is way] for way in Way}
    for guest in {probe.sender for way in (Way.FRAME, Way.DOOR, Way.PING) for probe in ways[way]}:
        frames, doors, pings = (
            [probe for probe in ways[way] if probe.sender == guest] for way in (Way.FRAME, Way.DOOR, Way.PING)
        )
        part = GuestPart(
            tuple(probe.payload.hex() for probe in frames),
            tuple((probe.address, probe.port) for probe in doors),
            tuple(probe.address for probe in pings),
            _LATER_PATIENCE_S if this.number else _PATIENCE_S,
        )
        guests[guest] = (part, doors, pings)
    deeds = (Way.NODE_DATAGRAM, Way.STRANGE_DATAGRAM, Way.NODE_DOOR)
    for host in {probe.sender for way in deeds for probe in ways[way]}:
        datagrams, strange, tried = ([probe for probe in ways[way] if probe.sender == host] for way in deeds)
        hosts[host] = (
            HostPart(
                tuple((probe.address, probe.port, probe.payload.hex()) for probe in datagrams),
                tuple((probe.address, probe.port) for probe in tried),
                tuple((probe.address, probe.port, probe.payload.hex()) for probe in strange),
            ),
            tried,
        )
    return guests, hosts


def _read(path: PurePath) -> bytes:
    """Return what a guest wrote, empty when it has not: no link is followed, no more read than is allowed."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return file.read(REPORT_MAX_BYTES + 1)
    return b""
