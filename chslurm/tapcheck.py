# SPDX-License-Identifier: Apache-2.0
"""The story of `chslurm net check --taps`: the TAPs of a job's network on this node attacked, without any guest.

What root of a guest can do to others is to send frames, and the user can do the same with the guest's TAP in his hands.
So nothing has to boot, and a Prolog can do it. Witnesses are the other TAPs, and the count of the gateway's frames.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from chslurm import frames
from chslurm.addresses import make_layout, make_mac
from chslurm.controls import Report, add_controls, check_alike, parse_check
from chslurm.errors import ChslurmError
from chslurm.host.bystander import read_addresses
from chslurm.host.files import read_small_file
from chslurm.host.jobtaps import OPEN, take_job_taps
from chslurm.host.links import count_sent, find_link_alias
from chslurm.host.taptrial import TapTrial
from chslurm.isolation import make_probes
from chslurm.jobnet import JobNames, JobOffer, parse_alias
from chslurm.plan import Host, Mode, NetworkKind
from chslurm.scene import Control, Probe, Row, Scene, Site, Way
from chslurm.slurmjob import parse_job_id
from chslurm.trial import HostWord, find_mark, make_mark
from chslurm.verdicts import Line, Pass, Verdict, count_controls, is_good, judge, sort_lines

_PATIENCE_S, _ASK_S, _SETTLE_S = 3.0, 0.1, 0.3
_NO_MAC = "00:00:00:00:00:00"
_ATTACKER, _NEIGHBOUR = 0, 1

_PING = Row("L1", "ping from a TAP to its gateway", control=Control.ITSELF)
_MEET = Row("L2", "UDP from a TAP to another of the node", control=Control.ITSELF)
_REST = Line("S9", "tunnel; whatever takes another node, or a guest", "", 0, "", "", Verdict.NOT_TRIED, "TAPs alone")


def check_taps(environment: Mapping[str, str], *, short: bool, control_for: str | None = None) -> Report:
    """Check the network of the job that SLURM_JOB_ID names, on this node. Raises ChslurmError when that can't be."""
    job_id = parse_job_id(environment)
    node = environment.get("SLURMD_NODENAME") or "this node"
    names = JobNames(job_id)
    offer = _find_offer(names, control=control_for is not None)
    scene = _make_scene(names, offer, node, short=short)
    check = None
    if control_for is not None:
        check = parse_check(read_small_file(Path(control_for)), control_for)
        check_alike(check, control_for, host_ct=1, guests=len(scene.guests), short=short, taps=True)
    slots = [int(address.ip) - int(scene.layout.subnet(offer.host)[0]) for _, address in scene.guests]
    with closing(take_job_taps(names, slots)) as taps:
        this = _attack(scene, names, node, TapTrial(taps.fds))
    if check:
        return add_controls(check, count_controls(this), [node])
    lines = sort_lines([*(line for line in judge(scene, [this]) if line.verdict is not Verdict.NOT_TRIED), _REST])
    return Report(is_good(lines), scene.cluster_id, (node,), len(scene.guests), short, lines, taps=True)


def _find_offer(names: JobNames, *, control: bool) -> JobOffer:
    offer = parse_alias(find_link_alias(names.bridge))
    if offer is None:
        raise ChslurmError(f"can't check the network of job {names.job_id}: root has made none for it on this node")
    if offer.open != control:
        why = OPEN if offer.open else "root's has filters, a control needs one without"
        raise ChslurmError(f"can't check the network of job {names.job_id}: {why}")
    return offer


def _make_scene(names: JobNames, offer: JobOffer, node: str, *, short: bool) -> Scene:
    """Two guests, or one and the user's own TAP, which is as good."""
    layout = make_layout(offer.host_ct)
    slots = [1, 2] if offer.tap_ct > 1 else [1, layout.most_guests]
    guests = tuple((number, layout.guest(offer.host, slot)) for number, slot in enumerate(slots))
    host = Host(offer.host, node, 1, 0, 0, len(guests))
    site = Site(host, HostWord(0, tuple(read_addresses()[:2])), guests)
    return Scene(secrets.token_hex(8), Mode.CLUSTER, NetworkKind.SITE, names.vni, layout, (site,), short=short)


def _attack(scene: Scene, names: JobNames, node: str, trial: TapTrial) -> Pass:
    attacks = tuple(probe for probe in make_probes(scene, 0) if probe.way is Way.FRAME)
    first = attacks[-1].number + 1
    allowed = tuple(Probe(first + place, row, Way.PING, _ATTACKER) for place, row in enumerate((_PING, _MEET)))
    this = Pass(0, (), attacks + allowed)
    this.answered = _try_allowed(scene, allowed, trial)
    before, mark = count_sent(names.veth), bytes.fromhex(scene.cluster_id[:8])
    came = []
    for probe in attacks:
        trial.send(_ATTACKER, probe.payload)
        came += trial.look()
    came += trial.look_for(_SETTLE_S)
    for place, data in came:
        if found := find_mark(data, mark):
            this.seen.setdefault(f"TAP {place + 1}", set()).add(found[1])
    this.carried[node] = count_sent(names.veth) - before
    return this


def _try_allowed(scene: Scene, allowed: tuple[Probe, ...], trial: TapTrial) -> set[int]:
    """Return which of the probes that may arrive do. TAPs that were opened just now need a moment."""
    mark, answered = bytes.fromhex(scene.cluster_id[:8]), set()
    for _ in range(int(_PATIENCE_S / _ASK_S)):
        for frame in _allowed_frames(scene, allowed):
            trial.send(_ATTACKER, frame)
        for place, data in trial.look_for(_ASK_S):
            found = find_mark(data, mark)
            if found and (place, found[1]) in zip((_ATTACKER, _NEIGHBOUR), (p.number for p in allowed), strict=True):
                answered.add(found[1])
        if len(answered) == len(allowed):
            break
    return answered


def _allowed_frames(scene: Scene, allowed: tuple[Probe, ...]) -> Iterator[bytes]:
    """A question for the gateway, an echo to it, and a datagram to the neighbour."""
    (_, own), (_, other) = scene.guests
    gateway = str(own.gateway)
    ping, meet = (make_mark(scene.cluster_id, 0, probe.number) for probe in allowed)
    asks = frames.make_arp(1, (own.mac, str(own.ip)), (_NO_MAC, gateway))
    yield frames.make_frame(frames.BROADCAST, own.mac, frames.ARP, asks)
    echo = frames.make_icmp(str(own.ip), gateway, 8, ping)
    yield frames.make_frame(make_mac(own.gateway), own.mac, frames.IP, echo)
    datagram = frames.make_udp(str(own.ip), str(other.ip), (4000, 7000), meet)
    yield frames.make_frame(other.mac, own.mac, frames.IP, datagram)
