# SPDX-License-Identifier: Apache-2.0
"""The plan of one cluster: everything that was decided, frozen, and the same for the head and every host.

`planner` makes it; here is only what it is: a file, `run/plan.json`, and all that travels from the head to the hosts.
`--dry-run` prints it, a host reads it and finds its part by number, a bug report attaches it. It holds no secret.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import msgspec

from chslurm.addresses import AddressLayout, GuestAddress, make_layout
from chslurm.errors import ChslurmError
from chslurm.kinds import Accelerator as Accelerator
from chslurm.kinds import Mode as Mode
from chslurm.kinds import NetworkKind as NetworkKind
from chslurm.kinds import TunnelKind as TunnelKind
from chslurm.units import LATEST_UNIX_S

PLAN_FORMAT = 3
"""Raised when a field changes its meaning; a host refuses a plan of another format."""

DEFAULT_LOG_MIB = 64


@dataclass(frozen=True, slots=True)
class Host:
    """One node of the allocation (or this machine) and the block of guests that runs on it."""

    number: int  # from 1, in the order of the allocation; addresses come from it, never from the name
    name: str
    cores: int  # that the allocation gives us here
    memory_mib: int  # likewise
    first_guest: int
    guest_ct: int

    @property
    def guest_ids(self) -> range:
        return range(self.first_guest, self.first_guest + self.guest_ct)


@dataclass(frozen=True, slots=True)
class Guest:
    """One virtual machine. Its name, address and MAC follow from host number and slot: see `addresses`."""

    id: int  # from 0 over the whole cluster
    host: int  # Host.number
    slot: int  # from 1 on each host; in a network of the site's the number of the TAP
    cores: int
    ram_mib: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of the image and what identified it when the plan was made: a later change is noticed by comparing.

    The device is not among it: nodes number the devices of a shared file system differently.
    """

    path: str  # absolute, symbolic links resolved
    format: str  # "qcow2" or "raw", as probed on the host and never again
    size_bytes: int
    mtime_ns: int
    ctime_ns: int  # this no owner of a file can set
    inode: int


@dataclass(frozen=True, slots=True)
class Image:
    """The base image with all its backing files."""

    layers: tuple[Layer, ...]  # the image itself first, each on the next

    @property
    def path(self) -> str:
        """The image file that the user named, symbolic links resolved."""
        return self.layers[0].path

    @property
    def format(self) -> str:
        return self.layers[0].format


@dataclass(frozen=True, slots=True)
class Share:
    """A directory of the user passed through to every guest at `/ch/<tag>`."""

    tag: str  # "data1"...
    path: str


@dataclass(frozen=True, slots=True)
class Job:
    """What guests run. Without a script, or with `interactive`, they only boot."""

    script: str | None  # absolute path on the host
    arguments: tuple[str, ...]
    interactive: bool
    name: str


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    gid: int


@dataclass(frozen=True, slots=True)
class User:
    """Whom `charlie` stands for inside the guests."""

    name: str
    uid: int
    gid: int
    groups: tuple[Group, ...]  # without system groups (gid < 500)


@dataclass(frozen=True, slots=True)
class Disks:
    """Where the disks of guests lie. `*_dir` None: in `run/` of the job directory; else a folder of the node."""

    swap_mib: int
    tmp_mib: int  # the whole temporary disk, swap included
    tmp_dir: str | None
    overlay_dir: str | None
    reason: str  # why this place, for the user


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each thing may take, in seconds: the one table of deadlines."""

    node_up_s: float  # the step's tasks have started and reported
    tunnel_s: float  # all hosts are joined
    silent_s: float  # a guest says its first word
    ready_s: float  # a guest is ready, counted from its start
    finish_s: float  # guests other than 0 end their scripts after guest 0 has
    power_down_s: float  # an orderly shutdown of a guest
    quit_s: float  # QEMU ends after it was told to quit
    node_down_s: float  # hosts clean up and say their last word
    beat_s: float  # the head speaks at least this often
    lost_s: float  # no word for so long: the other side is gone
    cancel_s: float  # everything, when SLURM cancels: its KillWait less a margin


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole decision."""

    format: int
    version: str  # of chslurm
    cluster_id: str  # 16 random hexadecimal digits; in every file and message that matters
    created: str  # UTC, ISO 8601
    mode: Mode
    job_dir: str  # absolute
    image: Image
    hosts: tuple[Host, ...]
    guests: tuple[Guest, ...]
    shares: tuple[Share, ...]
    job: Job
    user: User
    disks: Disks
    accelerator: Accelerator
    tunnel: TunnelKind
    network: NetworkKind  # AUTO on a cluster only, where each host looks whether root has made one
    network_reason: str  # why; empty when there was no choice
    vni: int  # VXLAN network identifier, random, 24 bits; 0 when there is only one host
    outside: bool  # guests reach the outside by NAT
    sync: bool  # guests wait for each other at the end of booting, before jobs start
    cleanup: bool  # overlays are deleted at the end, too
    commit_guest: int | None  # whose changes go into the image in the end
    vga: bool  # guests have a screen, shown in a window on their host
    environment: dict[str, str]  # what jobs in guests see besides their own CH_ variables
    slurm_job_id: str  # empty in workstation mode
    end_time_unix_s: float | None  # when SLURM ends the allocation
    time_limit_s: float | None  # --time-limit
    deadlines: Deadlines
    warnings: tuple[str, ...]
    trial: bool = False  # hosts take part in a check of the network, and let it take their filters away
    settings: tuple[str, ...] = ()  # what was chosen by settings and not by options, for people
    log_mib: int = (
        DEFAULT_LOG_MIB  # the most that a guest's console takes in the job directory, and QEMU's words likewise
    )
    control: bool = False  # of such a check: in a network that root has made without filters
    slurm_version: str = ""  # as its controller tells

    def host(self, number: int) -> Host:
        """Return the host with this number (1-based)."""
        return self.hosts[number - 1]

    def guests_of(self, host: Host) -> tuple[Guest, ...]:
        """Return the guests of one host, in slot order."""
        return self.guests[host.first_guest : host.first_guest + host.guest_ct]

    @property
    def layout(self) -> AddressLayout:
        """Who has which network. It follows from the number of hosts, so nobody who reads the plan can disagree."""
        return make_layout(len(self.hosts))

    def address(self, guest: Guest) -> GuestAddress:
        """Return where a guest is in the virtual network."""
        return self.layout.guest(guest.host, guest.slot)


def plan_to_json(plan: Plan) -> bytes:
    """Return the plan as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"


def plan_from_json(text: bytes) -> Plan:
    """Return the plan that `text` holds. Raises ChslurmError when it is not a plan of this format."""
    try:
        plan = msgspec.json.decode(text, type=Plan)
    except msgspec.MsgspecError as error:
        raise ChslurmError(f"can't read the plan: {error}") from error
    if plan.format != PLAN_FORMAT:
        raise ChslurmError(f"can't use the plan: format {plan.format}, this chslurm reads {PLAN_FORMAT}")
    try:
        created_unix_s = datetime.fromisoformat(plan.created).timestamp()
    except (ValueError, OverflowError):
        created_unix_s = -1.0
    if not (plan.hosts and plan.guests and 0 <= created_unix_s <= LATEST_UNIX_S):
        raise ChslurmError("can't use the plan: no hosts, no guests, or no time")
    return plan


def plan_digest(text: bytes) -> str:
    """Return the SHA-256 of a plan's file: a host compares it with what the head told it (stale shared files)."""
    return hashlib.sha256(text).hexdigest()
