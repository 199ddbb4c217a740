# SPDX-License-Identifier: Apache-2.0
"""The texts of `meta/`, which every guest sees at /ch/meta: who is in the cluster and where. No secrets.

guest-count     3
guests          a name a line, in the order of guest numbers
guest-macs      number and MAC, a line each
hosts           the guests' /etc/hosts: chguN for guests, chguNhost for the host each runs on
hostfile        for MPI: a name and its cores as slots
host-userdata   JSON: username, uid, gid, groups (name: gid)
proxy.sh        exports of the user's proxy settings
resolv.conf     the guests' name server, on a workstation
interactive     exists when the cluster is interactive
commit          the guest whose changes go into the image in the end; exists when there is one
"""

from __future__ import annotations

import msgspec

from chslurm.addresses import GuestAddress
from chslurm.environment import find_proxies, render_exports
from chslurm.plan import Plan, User


def make_guest_name(guest: int) -> str:
    """Return the host name of a guest."""
    return f"chgu{guest}"


def make_meta_files(plan: Plan) -> dict[str, str]:
    """Return name and text of each file that `meta/` gets, besides the job script."""
    guests = [(make_guest_name(guest.id), plan.address(guest)) for guest in plan.guests]
    files = {
        "guest-count": f"{len(guests)}\n",
        "guests": "".join(f"{name}\n" for name, _ in guests),
        "guest-macs": "".join(f"{number} {address.mac}\n" for number, (_, address) in enumerate(guests)),
        "hosts": "127.0.0.1 localhost\n" + "".join(_render_hosts(*guest) for guest in guests),
        "hostfile": "".join(f"{make_guest_name(guest.id)} slots={guest.cores}\n" for guest in plan.guests),
        "host-userdata": _render_userdata(plan.user),
        "proxy.sh": render_exports(find_proxies(plan.environment)),
        "resolv.conf": f"nameserver {guests[0][1].gateway}\n"
        if plan.outside
        else "# names come from /etc/hosts only\n",
    }
    if plan.job.interactive:
        files["interactive"] = ""
    if plan.commit_guest is not None:
        files["commit"] = f"{plan.commit_guest}\n"
    return files


def _render_hosts(name: str, address: GuestAddress) -> str:
    return f"{address.ip} {name}\n{address.gateway} {name}host\n"


def _render_userdata(user: User) -> str:
    groups = {group.name: group.gid for group in user.groups}
    data = {"username": user.name, "uid": user.uid, "gid": user.gid, "groups": groups}
    return msgspec.json.format(msgspec.json.encode(data), indent=1).decode() + "\n"
