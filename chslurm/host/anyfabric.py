# SPDX-License-Identifier: Apache-2.0
"""Which network one host has: one that root has made, on a workstation or for the job, or a rootless one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from chslurm.guest import choose_queues
from chslurm.host.accel import has_vhost
from chslurm.host.fabric import Fabric, start_fabric
from chslurm.host.jobtaps import JobFabric, find_job_network, use_job_network
from chslurm.host.lines import tell
from chslurm.host.tapfabric import TapFabric, use_site_network
from chslurm.jobdir import JobDir
from chslurm.messages import Event, EventKind
from chslurm.network import make_host_network
from chslurm.plan import Host, Mode, NetworkKind, Plan

AnyFabric = Fabric | TapFabric | JobFabric


def start_any_fabric(plan: Plan, host: Host, taps: Sequence[int]) -> AbstractContextManager[AnyFabric]:
    """Start the network of this host; `taps` are those that the launcher has taken on a workstation.

    Call from the main thread, before any other thread or an event loop exists. Raises ChslurmError.
    """
    log_dir = Path(JobDir(Path(plan.job_dir)).out)
    if plan.mode is Mode.CLUSTER:
        offer, why = find_job_network(plan, host)
        if offer:
            return use_job_network(plan, host, offer, log_dir)
        if why:
            tell(Event(EventKind.NODE_NOTE, host.number, text=f"network: rootless, since {why}"))
    elif plan.network is NetworkKind.SITE:
        return use_site_network([guest.slot for guest in plan.guests_of(host)], taps)
    network = make_host_network(host.number, host.guest_ct, plan.mode, len(plan.hosts))
    return start_fabric(network, log_dir, choose_queues([guest.cores for guest in plan.guests_of(host)], has_vhost()))
