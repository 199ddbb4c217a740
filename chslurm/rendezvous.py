# SPDX-License-Identifier: Apache-2.0
"""Where hosts and guests wait for each other: reports that are needed from all hosts, and barriers of guests."""

from __future__ import annotations

from dataclasses import dataclass, field

from chslurm.messages import Event, EventKind, Order, OrderKind

GATHERED = {EventKind.TUNNEL_OFFER: OrderKind.PEERS, EventKind.TUNNEL_MTU: OrderKind.MTU}
"""What every host has to report before the order that follows from all the reports together."""


@dataclass(slots=True)
class Rendezvous:
    """Who has come so far."""

    host_ct: int
    _reports: dict[EventKind, dict[int, Event]] = field(default_factory=dict)
    _barriers: dict[str, set[int]] = field(default_factory=dict)

    def report(self, event: Event) -> list[Order]:
        """Take in one host's report; return the order that follows when it was the last one missing."""
        reports = self._reports.setdefault(event.kind, {})
        reports[event.host] = event
        if len(reports) < self.host_ct:
            return []
        return [Order(GATHERED[event.kind], mtu=min(report.mtu for report in reports.values()))]

    def reported(self, kind: EventKind) -> list[Event]:
        """Return what hosts reported of this kind, in the order of their numbers."""
        return [event for _, event in sorted(self._reports.get(kind, {}).items())]

    def arrive(self, barrier: str, guest: int) -> None:
        """Let a guest wait at a barrier."""
        self._barriers.setdefault(barrier, set()).add(guest)

    def open(self, expected: int) -> list[Order]:
        """Open the barriers where `expected` guests wait, which are all that can still come."""
        full = [name for name, waiting in self._barriers.items() if len(waiting) >= expected]
        for name in full:
            del self._barriers[name]
        return [Order(OrderKind.RELEASE, text=name) for name in full]
