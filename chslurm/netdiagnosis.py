# SPDX-License-Identifier: Apache-2.0
"""The same for the network of guests: namespaces, TAPs, filters, what joins them to others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from chslurm import remedies
from chslurm.checkup import Needs, Row, Topic, Verdict
from chslurm.diagnosis import Tried
from chslurm.filters import Family
from chslurm.kinds import Mode, NetworkKind, TunnelKind
from chslurm.linkfilters import render_refusals

_TAKES_NETWORK = "takes a user namespace, a TAP and filters"


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a namespace of our own could be given."""

    namespaces: Tried
    settings: Mapping[str, str] = field(default_factory=dict)  # of the kernel, about them
    tun: Tried | None = None
    filters: Tried | None = None
    refused: Mapping[Family, str] = field(default_factory=dict)
    wireguard: Tried | None = None


@dataclass(frozen=True, slots=True)
class TunnelFacts:
    """A tunnel by VXLAN that was opened, or not, and what else there would be."""

    tried: Tried
    carried: bool = True  # pasta carries it, whatever the tunnel's device
    wireguard: str = ""  # why there is none


def judge_network(facts: NetworkFacts, needs: Needs) -> Iterator[Row]:
    """Namespaces, TAPs, filters and WireGuard, as far as they could be tried."""
    fails = Verdict.FAILED if needs.own_network else Verdict.WARNING
    if facts.namespaces.trouble:
        yield Row(Topic.NAMESPACES, facts.namespaces.trouble, fails, remedies.allow_namespaces(dict(facts.settings)))
        yield from (
            Row(topic, "takes a user namespace", Verdict.NOT_TRIED)
            for topic in (Topic.TUN, Topic.FILTERS, Topic.WIREGUARD)
        )
        return
    yield Row(Topic.NAMESPACES, facts.namespaces.found)
    if facts.tun and facts.tun.trouble:  # TAPs of root's are opened by the same device
        yield Row(Topic.TUN, facts.tun.trouble, Verdict.FAILED, remedies.open_tun(facts.tun.trouble))
        yield Row(Topic.FILTERS, "take a TAP", Verdict.NOT_TRIED)
    else:
        yield Row(Topic.TUN, facts.tun.found if facts.tun else "")
        yield _judge_filters(facts, fails)
    yield _judge_wireguard(facts.wireguard, needs)


def _judge_filters(facts: NetworkFacts, fails: Verdict) -> Row:
    remedy = "sudo modprobe -a nf_tables nf_tables_inet nft_meta_bridge; where there are none: another kernel"
    if facts.filters and facts.filters.trouble:
        return Row(Topic.FILTERS, facts.filters.trouble, fails, remedy)
    if facts.refused:
        return Row(Topic.FILTERS, render_refusals(dict(facts.refused)), Verdict.WARNING, remedy)
    return Row(Topic.FILTERS, "nft loads those of inet, netdev and bridge")


def _judge_wireguard(tried: Tried | None, needs: Needs) -> Row:
    if tried is None or needs.tunnel is TunnelKind.VXLAN:
        return Row(Topic.WIREGUARD, "not asked for" if tried else "takes a user namespace", Verdict.NOT_TRIED)
    if not tried.trouble:
        return Row(Topic.WIREGUARD, "a device can be made")
    needed = needs.tunnel is TunnelKind.WIREGUARD and needs.host_ct > 1 and needs.own_network
    found = tried.trouble if needed else f"{tried.trouble}: hosts are joined by VXLAN, not encrypted"
    return Row(Topic.WIREGUARD, found, Verdict.FAILED if needed else Verdict.WARNING, "sudo modprobe wireguard")


def judge_outside(tried: Tried | None, needs: Needs, family: remedies.Family) -> Row:
    """pasta, or slirp4netns in its place, joins a workstation's guests to the outside."""
    if tried is None:
        return Row(Topic.OUTSIDE, _TAKES_NETWORK, Verdict.NOT_TRIED)
    if not tried.trouble:
        return Row(Topic.OUTSIDE, tried.found)
    needed = needs.mode is Mode.WORKSTATION and needs.own_network
    remedy = tried.hint or remedies.install(["pasta"], family)
    if "not installed" in tried.trouble or "can't start pasta" in tried.trouble:
        remedy = remedies.install(["pasta"], family)
    return Row(Topic.OUTSIDE, tried.trouble, Verdict.FAILED if needed else Verdict.WARNING, remedy)


def judge_vxlan(facts: TunnelFacts | None, needs: Needs, family: remedies.Family) -> Row:
    """A tunnel of pasta and VXLAN, opened as to another host. Without the device WireGuard does, carried alike."""
    if facts is None:
        return Row(Topic.VXLAN, _TAKES_NETWORK, Verdict.NOT_TRIED)
    tried = facts.tried
    if not tried.trouble:
        return Row(Topic.VXLAN, tried.found)
    missed = needs.tunnel is TunnelKind.VXLAN or bool(facts.wireguard and needs.tunnel is TunnelKind.AUTO)
    needed = needs.host_ct > 1 and needs.own_network and (missed or not facts.carried)
    remedy = tried.hint or "sudo modprobe vxlan"
    if "can't start pasta" in tried.trouble:
        remedy = remedies.install(["pasta"], family)
    return Row(Topic.VXLAN, tried.trouble, Verdict.FAILED if needed else Verdict.WARNING, remedy)


def judge_site(found: str, needs: Needs) -> Row:
    """A network of root's is not needed, unless it is asked for."""
    if found:
        return Row(Topic.SITE, found)
    if needs.network is NetworkKind.SITE:
        return Row(Topic.SITE, "none here", Verdict.FAILED, "leave out --network site")
    return Row(Topic.SITE, "none here: guests have one of their own, without root")
