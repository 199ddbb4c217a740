# SPDX-License-Identifier: Apache-2.0
"""Request + allocation + facts -> plan: every decision that can be made before anything starts, and its words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath

from chslurm.allocation import Allocation
from chslurm.environment import find_job_variables
from chslurm.errors import UsageError
from chslurm.plan import (
    PLAN_FORMAT,
    Accelerator,
    Deadlines,
    Disks,
    Guest,
    Host,
    Image,
    Job,
    Mode,
    NetworkKind,
    Plan,
    Share,
    TunnelKind,
    User,
)
from chslurm.request import Request
from chslurm.sizes import GuestSize, make_guest_sizes
from chslurm.units import render_duration, render_size

SWAP_MIB = 2048

# fmt: off
_NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "dvs", "gfs2", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs",
    "panfs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs",
})
# fmt: on
_ACCELERATORS = {
    Accelerator.AUTO: "KVM where it works, else emulation (TCG)",
    Accelerator.KVM: "KVM",
    Accelerator.TCG: "emulation (TCG)",
}
_TUNNELS = {
    TunnelKind.AUTO: "WireGuard between hosts where all can make it, else VXLAN {}, not encrypted or authenticated",
    TunnelKind.WIREGUARD: "WireGuard between hosts is encrypted and authenticated",
    TunnelKind.VXLAN: "VXLAN {} between hosts is not encrypted or authenticated",
}
_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class SiteOffer:
    """What a network that root has made on this host has for us."""

    slots: tuple[int, ...]  # TAPs that are free
    words: str  # about them, for the user


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen on the machine where the launcher runs."""

    image: Image
    user: User
    environment: Mapping[str, str]
    file_system: str  # type of the one that the job directory is (or will be) on
    node_dir: str  # where temporary files of a node go
    now: datetime  # with its time zone
    version: str
    cluster_id: str  # 16 random hexadecimal digits
    vni: int  # random
    site: SiteOffer | None = None  # None: there is no such network
    warnings: tuple[str, ...] = ()


def make_plan(request: Request, allocation: Allocation, facts: Facts) -> Plan:
    """Return the plan. Raises UsageError when the request can't be met."""
    sizes, warnings = make_guest_sizes(request, allocation)
    hosts = tuple(_make_hosts(sizes))
    network, reason = _choose_network(request, allocation, facts, sum(host.guest_ct for host in hosts))
    taps = facts.site.slots if facts.site and network is NetworkKind.SITE else None
    guests = tuple(
        Guest(host.first_guest + index, host.number, taps[index] if taps else index + 1, size.cores, size.ram_mib)
        for host, size in zip(hosts, sizes, strict=True)
        for index in range(host.guest_ct)
    )
    job_dir = request.job_dir or request.job_base / f"{request.job_name}.{facts.now:%Y%m%d_%H%M%S}"
    if request.commit_guest is not None and request.commit_guest >= len(guests):
        raise UsageError(
            f"--commit {request.commit_guest}: no such guest", hint=f"guests are numbered 0 to {len(guests) - 1}"
        )
    workstation = allocation.mode is Mode.WORKSTATION
    script = None if request.job_script is None else str(request.job_script)
    return Plan(
        format=PLAN_FORMAT,
        version=facts.version,
        cluster_id=facts.cluster_id,
        created=facts.now.astimezone(UTC).isoformat(timespec="seconds"),
        mode=allocation.mode,
        job_dir=str(job_dir),
        image=facts.image,
        hosts=hosts,
        guests=guests,
        shares=tuple(Share(f"data{n}", str(path)) for n, path in enumerate(request.directories, start=1)),
        job=Job(script, request.job_arguments, request.interactive, request.job_name),
        user=facts.user,
        disks=_make_disks(request, facts),
        accelerator=request.accelerator,
        tunnel=request.tunnel,
        network=network,
        network_reason=reason,
        vni=facts.vni if len(hosts) > 1 else 0,
        outside=workstation,
        sync=request.sync,
        cleanup=request.cleanup,
        commit_guest=request.commit_guest,
        vga=request.vga,
        environment=find_job_variables({**request.proxies, **facts.environment}),
        slurm_job_id=allocation.slurm_job_id,
        end_time_unix_s=allocation.end_time_unix_s,
        time_limit_s=request.time_limit_s,
        deadlines=make_deadlines(request, allocation, sizes),
        warnings=(*request.warnings, *facts.warnings, *warnings),
        settings=request.settings,
        log_mib=request.log_mib,
        slurm_version=allocation.slurm_version,
    )


def _choose_network(request: Request, allocation: Allocation, facts: Facts, guest_ct: int) -> tuple[NetworkKind, str]:
    """Return whose network guests are in, and why. Raises UsageError when that of --network can't be had."""
    wanted, offer = request.network, facts.site
    if allocation.mode is Mode.CLUSTER:  # the hosts find out
        return wanted, "" if wanted is NetworkKind.AUTO else "as --network says"
    if wanted is NetworkKind.ROOTLESS or (offer is None and wanted is NetworkKind.AUTO):
        return NetworkKind.ROOTLESS, "as --network says" if wanted is NetworkKind.ROOTLESS else ""
    if offer is None:
        hint = "see docs/operators.md, or leave it out"
        raise UsageError(f"--network {wanted}: root has made no network for guests here", hint=hint)
    if len(offer.slots) >= guest_ct:
        return NetworkKind.SITE, f"made by root; {offer.words}"
    why = f"{offer.words}, {guest_ct} needed"
    if wanted is NetworkKind.SITE:
        raise UsageError(f"--network {wanted}: {why}", hint="use fewer guests (-n), or leave it out")
    return NetworkKind.ROOTLESS, f"that of root has no room: {why}"


def _make_hosts(sizes: Iterable[GuestSize]) -> Iterable[Host]:
    """Hosts in the order of the allocation, each with the next block of guests."""
    first_guest = 0
    for number, size in enumerate(sizes, start=1):
        yield Host(number, size.node.name, size.node.cores, size.node.memory_mib, first_guest, size.guest_ct)
        first_guest += size.guest_ct


def make_deadlines(request: Request, allocation: Allocation, sizes: Iterable[GuestSize]) -> Deadlines:
    """Return the table of deadlines.

    A guest under emulation is many times slower than one under KVM, and waits for its core when guests share it. What a
    host will use is not known yet, so AUTO counts as emulation. The numbers are 10 times what a quiet machine needs.
    """
    crowd = max((size.guest_ct * size.cores / max(size.node.cores, 1) for size in sizes), default=1.0)
    slowness = max(crowd, 1.0) * (1.0 if request.accelerator is Accelerator.KVM else 5.0)
    ready_s = 60.0 * slowness if request.boot_timeout_s is None else request.boot_timeout_s
    hosts = len(allocation.nodes)
    return Deadlines(
        node_up_s=60.0 + hosts / 10,
        tunnel_s=30.0 + hosts / 10,
        silent_s=min(20.0 * slowness, ready_s),
        ready_s=ready_s,
        finish_s=60.0,
        power_down_s=max(20.0, 6.0 * slowness),
        quit_s=10.0,
        node_down_s=15.0,
        beat_s=5.0,
        lost_s=30.0,
        cancel_s=max(allocation.kill_wait_s - 2.0, 2.0),
    )


def _make_disks(request: Request, facts: Facts) -> Disks:
    """Overlays and temporary disks are written all the time: never on a file system across the network."""
    swap_mib = min(SWAP_MIB, request.tmp_mib // 2)
    asked = None if request.tmp_dir is None else str(request.tmp_dir)
    if is_network_file_system(facts.file_system):
        node_dir = asked or facts.node_dir
        reason = f"in {node_dir} of each node, since the job directory is on {facts.file_system}"
        return Disks(swap_mib, request.tmp_mib, node_dir, node_dir, reason)
    reason = "in the job directory" if asked is None else f"overlays in the job directory, temporary disks in {asked}"
    return Disks(swap_mib, request.tmp_mib, asked, None, reason)


def find_file_system(mountinfo: str, path: PurePath) -> str:
    """Return the type of the file system that `path` is on (proc(5), `mountinfo`); empty when it is not known."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        if len(words) < 5 or not rest:
            continue
        mount = PurePath(_OCTAL_ESCAPE.sub(lambda found: chr(int(found[1], 8)), words[4]))
        if len(mount.parts) >= best and path.is_relative_to(mount):  # of two on one place the later counts
            best, kind = len(mount.parts), rest.split(" ")[0]
    return kind


def is_network_file_system(kind: str) -> bool:
    """Say whether a file system of this type is (or may be, with FUSE) somewhere else."""
    return kind in _NETWORK_FILE_SYSTEMS or kind == "fuse" or kind.startswith("fuse.")


def render_plan(plan: Plan) -> str:
    """Return what the user reads before anything starts, a line each: what it is, and what about it."""
    rows = [
        ("mode", _render_mode(plan)),
        ("guests", _render_guests(plan)),
        ("size", _render_sizes(plan)),
        ("user", _render_user(plan.user)),
        ("image", f"{plan.image.path} ({plan.image.format})"),
        ("job", _render_job(plan.job)),
        ("job directory", plan.job_dir),
        *((f"/ch/{share.tag}", share.path) for share in plan.shares),
        ("disks", f"{plan.disks.reason}; /ch/tmp and swap {render_size(plan.disks.tmp_mib)}"),
        ("network", _render_network(plan)),
        *([] if plan.commit_guest is None else [("commit", f"guest {plan.commit_guest} to the image, in the end")]),
        *([("screens", "a window for each guest, on its host")] if plan.vga else []),
        ("accelerator", _ACCELERATORS[plan.accelerator]),
        ("time limit", _render_time_limit(plan)),
        ("guest 0", f"chgu0, {plan.address(plan.guests[0]).ip}"),
        *(("settings", words) for words in plan.settings),
        *(("warning", warning) for warning in plan.warnings),
    ]
    return "".join(f"{name + ':':<15}{_one_line(text)}\n" for name, text in rows)


def _render_mode(plan: Plan) -> str:
    if plan.mode is Mode.WORKSTATION:
        return "workstation"
    end_s = plan.end_time_unix_s
    end = "end unknown" if end_s is None else f"until {datetime.fromtimestamp(end_s):%F %T}"
    return f"cluster, SLURM job {plan.slurm_job_id}, {end}"


def _render_time_limit(plan: Plan) -> str:
    """Where there is none of our own that of the job counts, whose end is told with the mode."""
    if plan.time_limit_s is not None:
        return render_duration(plan.time_limit_s)
    return "none" if plan.mode is Mode.WORKSTATION else "that of the SLURM job"


def _render_guests(plan: Plan) -> str:
    counts = sorted({host.guest_ct for host in plan.hosts})
    each = "" if len(plan.hosts) == 1 else f", {'-'.join(map(str, counts))} each"
    return f"{len(plan.guests)} on {render_names([host.name for host in plan.hosts])}{each}"


def render_names(names: Sequence[str], shown: int = 8) -> str:
    """Return some names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _render_sizes(plan: Plan) -> str:
    """One size, or each that there is when nodes differ."""
    sizes = dict.fromkeys((guest.cores, guest.ram_mib) for guest in plan.guests)
    return " or ".join(
        f"{cores} {'core' if cores == 1 else 'cores'}, {render_size(ram_mib)} RAM" for cores, ram_mib in sizes
    )


def _render_user(user: User) -> str:
    groups = ", ".join(f"{group.name} ({group.gid})" for group in user.groups)
    return f"{user.name} ({user.uid}), groups {groups or 'none'}"


def _render_job(job: Job) -> str:
    script = "none" if job.script is None else shlex.join((job.script, *job.arguments))
    return f"{script}, interactive" if job.interactive else script


def _render_network(plan: Plan) -> str:
    if plan.outside:
        why = f"{plan.network} ({plan.network_reason}): " if plan.network_reason else ""
        also = " and your other guests in it" if plan.network is NetworkKind.SITE else ""
        reach = "by NAT the outside, and of this host only ssh, if it has a server (chguNhost)"
        return f"{why}guests reach each other{also}, {reach}"
    why = f"{plan.network} ({plan.network_reason}): " if plan.network_reason else ""
    text = f"{why}guests reach nothing but each other"
    own_tunnel = len(plan.hosts) > 1 and plan.network is not NetworkKind.SITE
    return f"{text}; {_TUNNELS[plan.tunnel].format(plan.vni)}" if own_tunnel else text


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
