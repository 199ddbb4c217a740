# SPDX-License-Identifier: Apache-2.0
"""The story of a plan, told and not done: every command and every network step, host by host."""

from __future__ import annotations

import os
import shlex

from chslurm.flatten import ImageInfo, make_flatten_argv, make_source
from chslurm.guest import Kernel, Offer, make_machine, make_qemu_argv
from chslurm.host.disks import locate_guest_disks, render_disk_commands
from chslurm.host.pasta import make_carrier_argv, make_outside_argv
from chslurm.host.step import make_step_argv
from chslurm.network import (
    DEFAULT_MTU,
    HostNetwork,
    Step,
    make_host_network,
    make_outside_steps,
    render_network,
    render_steps,
)
from chslurm.plan import Host, Mode, NetworkKind, Plan, TunnelKind
from chslurm.planner import render_plan
from chslurm.site import make_relay_ports, make_site_guest
from chslurm.tunnel import Peer, make_tunnel_steps

_ALL_PEERS, _SOME_PEERS = 100, 4
"""A host of a cluster up to the first size is shown with all others; of a larger one with some: else each of 10,000
hosts would fill 10,000 times three lines."""

_RELAYED = """
relayed by the task itself, from guests to this host and never the other way:
    {gateway} port 53 (UDP, TCP)  to the resolvers of /etc/resolv.conf
    {gateway} port 22 (TCP)       to 127.0.0.1 port 22; reset where no ssh server is
"""


def render_explanation(plan: Plan) -> str:
    """Return the text of `--explain`. What is found out only later, like a port, stands in capitals or as -1."""
    step = shlex.join(make_step_argv(plan, "DIGEST", os.environ))
    parts = [render_plan(plan), f"the step, one task on each host:\n    {step}\n"]
    if len(plan.hosts) > _ALL_PEERS:
        parts.append(f"of the {len(plan.hosts)} ends of the tunnel each host is shown with the first {_SOME_PEERS}\n")
    offer = Offer(plan.accelerator, "FIRMWARE", Kernel(-1, -1, "COMMAND-LINE-OF-THE-IMAGE"), _display(plan))
    if plan.mode is Mode.CLUSTER and plan.network is not NetworkKind.ROOTLESS:
        parts.append("where root has made a network for the job, that takes the place of each below\n")
    for host in plan.hosts:
        if plan.network is NetworkKind.SITE and plan.mode is Mode.WORKSTATION:
            parts.append(_render_site(plan, host))
        else:
            parts.extend(_render_own_network(plan, host))
        for guest in plan.guests_of(host):
            disks = locate_guest_disks(plan, guest)
            machine = make_machine(plan, guest, offer, disks.root, disks.temporary, tap_fds=(-1,))
            parts.append(f"disks of guest {guest.id}:\n{render_disk_commands(plan, guest)}")
            parts.append(f"guest {guest.id} on {host.name}:\n    {shlex.join(make_qemu_argv(machine))}\n")
    return "\n".join([*parts, *_commit(plan)])


def _commit(plan: Plan) -> list[str]:
    """The commands that write the guest of --commit into the image, when it has shut itself down."""
    if plan.commit_guest is None:
        return []
    overlay = locate_guest_disks(plan, plan.guests[plan.commit_guest]).root.path
    source = make_source(overlay, plan.image, locking=True)
    flatten = make_flatten_argv(source, plan.image, ImageInfo(0), "NEW", compress=False)
    lines = (flatten, ["mv", "NEW", plan.image.path])
    return [f"in the end, of guest {plan.commit_guest}:\n" + "".join(f"    {shlex.join(line)}\n" for line in lines)]


def _render_own_network(plan: Plan, host: Host) -> list[str]:
    network = make_host_network(host.number, host.guest_ct, plan.mode, len(plan.hosts))
    later = _later_steps(plan, network)
    parts = [render_network(network, later)]
    if plan.tunnel is TunnelKind.AUTO and network.has_uplink:
        instead = render_steps(_tunnel_steps(plan, network, TunnelKind.VXLAN))
        parts.append(f"where a host can't make WireGuard, instead of the last {len(later)} steps:\n\n{instead}")
    return [*parts, *_joiner(network)]


def _render_site(plan: Plan, host: Host) -> str:
    """Root has made it already; what is left to do are relays."""
    lines = [f"network of host {host.number}: made by root (chslurm net workstation start --explain)\n"]
    for guest in plan.guests_of(host):
        address, ports = make_site_guest(guest.slot), make_relay_ports(guest.slot)
        places = " and ".join(f"{there} in place of {here}" for here, there in ports.items())
        lines.append(f"    guest {guest.id}: {address.tap}, {address.ip}; relays at {address.gateway} port {places}\n")
    return "".join(lines)


def _display(plan: Plan) -> str | None:
    return "SDL-OR-GTK" if plan.vga else None


def _joiner(network: HostNetwork) -> list[str]:
    """The program that joins the namespace to the real network, before the steps that need its link up0."""
    relayed = ""
    if network.mode is Mode.WORKSTATION:
        argv = make_outside_argv("HOLDER", "INTERFACE")
        relayed = _RELAYED.format(gateway=network.gateway)
    elif network.has_uplink:
        argv = make_carrier_argv("HOLDER", "UPLINK-NAMESPACE", "INTERFACE", "ADDRESS", "PORT")
    else:
        return []
    return [f"beside the holder of the namespaces, before up0 is used:\n    {shlex.join(argv)}\n{relayed}"]


def _later_steps(plan: Plan, network: HostNetwork) -> tuple[Step, ...]:
    if plan.mode is Mode.WORKSTATION:
        return make_outside_steps(network)
    if not network.has_uplink:
        return ()
    return _tunnel_steps(plan, network, plan.tunnel)


def _tunnel_steps(plan: Plan, network: HostNetwork, kind: TunnelKind) -> tuple[Step, ...]:
    shown = plan.hosts
    if len(shown) > _ALL_PEERS:
        shown = (*shown[:_SOME_PEERS], *((plan.host(network.host),) if network.host > _SOME_PEERS else ()))
    peers = [Peer(host.number, f"ADDRESS-OF-{host.name}", -1) for host in shown]
    keys = {host.number: f"PUBLIC-KEY-OF-{host.name}" for host in shown}
    return make_tunnel_steps(network, peers, plan.vni, DEFAULT_MTU, None if kind is TunnelKind.VXLAN else keys)
