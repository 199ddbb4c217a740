# SPDX-License-Identifier: Apache-2.0
"""What networks for SLURM jobs go by: the site's settings, and what SLURM tells a Prolog, each checked whole.

A variable that is not wholly as SLURM writes it is refused: nothing of it reaches a name, a file or a command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from chslurm.allocation import parse_nodelist
from chslurm.errors import UsageError
from chslurm.kinds import TunnelKind
from chslurm.settings import parse_lines
from chslurm.units import parse_count, quote

SETTINGS_FILE = "/etc/charliecloud/network.conf"
VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_JOB_UID",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_CONSTRAINTS",
    "SLURM_JOB_NODELIST",
    "SLURM_NODELIST",  # the same, in releases before the other name reached prologs
    "SLURMD_NODENAME",
)
"""All of the environment that is read."""

DEFAULT_TAP_CT, MOST_TAPS = 8, 252  # the last guest's place in a network is the user's own
DEFAULT_PORT = 299
"""Of UDP: unassigned, below the ports that users can have, and below those that NFS takes for itself."""
DEFAULT_PORTS = (200, 298)
"""Of UDP, of WireGuard: below those that any of root's own programs takes at random (bindresvport(3): from 512)."""

_KEYS = ("JOBS", "TAPS", "TUNNEL", "KEY", "PORT", "PORTS", "NODES", "MTU", "REQUIRED", "OPEN", "CHSLURM")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", re.ASCII)
_JOBS = re.compile(r"all|(?:partition|feature):[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_OPEN = re.compile(r"partition:([A-Za-z0-9_][A-Za-z0-9_.-]{0,63})", re.ASCII)
_PORTS = re.compile(r"([1-9][0-9]{0,4})-([1-9][0-9]{0,4})", re.ASCII)
_PATH = re.compile(r"(?:/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)+", re.ASCII)
_FEATURE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What the administrator wrote down."""

    jobs: str = "all"  # which: all, partition:NAME, feature:NAME
    tap_ct: int = DEFAULT_TAP_CT  # on each node
    port: int = DEFAULT_PORT  # of UDP, of VXLAN
    mtu: int = 0  # of the nodes' network in bytes; 0: as its link says
    required: bool = False  # a job that can't have a network is not to start
    open_partition: str = ""  # its jobs have networks without filters: controls of `chslurm net check`
    tunnel: TunnelKind = TunnelKind.VXLAN  # never AUTO: no node knows what the kernels of the others have
    key_file: str = ""  # of WireGuard: the secret of the site
    ports: tuple[int, int] = DEFAULT_PORTS  # of UDP, of WireGuard: the first and the last
    nodes_file: str = ""  # where the nodes' addresses are; else their names are looked up

    def find_udp_port(self, job_id: int) -> int:
        """Return the port of a job's tunnel: a WireGuard device has one of its own, networks of VXLAN share theirs."""
        first, last = self.ports
        return first + job_id % (last - first + 1) if self.tunnel is TunnelKind.WIREGUARD else self.port


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """What SLURM tells of a job on one of its nodes."""

    id: int
    uid: int
    partition: str
    features: frozenset[str]
    nodes: tuple[str, ...]
    node: str

    @property
    def host(self) -> int:
        """The number of this node, as the launcher counts."""
        return self.nodes.index(self.node) + 1


def parse_job_settings(text: str, name: str = SETTINGS_FILE) -> JobSettings:
    """Return the settings in a file of `KEY=VALUE` lines. Raises UsageError."""
    values = parse_lines(text, name, _KEYS)
    jobs = values.get("JOBS", "all")
    if not _JOBS.fullmatch(jobs):
        raise UsageError(f"{name}: JOBS {quote(jobs)}: which?", hint="use all, partition:NAME or feature:NAME")
    required = values.get("REQUIRED", "no")
    if required not in ("yes", "no"):
        raise UsageError(f"{name}: REQUIRED {quote(required)}: yes or no?")
    mtu = values.get("MTU")
    return JobSettings(
        jobs,
        parse_count(values.get("TAPS") or str(DEFAULT_TAP_CT), f"{name}: TAPS", most=MOST_TAPS),
        parse_count(values.get("PORT") or str(DEFAULT_PORT), f"{name}: PORT", most=65534),
        parse_count(mtu, f"{name}: MTU", least=576, most=65535) if mtu else 0,
        required == "yes",
        _parse_open(values.get("OPEN"), jobs, name),
        _parse_tunnel(values, name),
        _parse_path(values, "KEY", name),
        _parse_ports(values, name),
        _parse_path(values, "NODES", name),
    )


def parse_job_id(environment: Mapping[str, str]) -> int:
    """Return the number of the job, which is all that an epilog needs. Raises UsageError."""
    return _number(environment, "SLURM_JOB_ID", 1, (1 << 32) - 1)


def parse_job(environment: Mapping[str, str]) -> SlurmJob:
    """Return what SLURM's variables tell; each has to be wholly as SLURM writes it. Raises UsageError."""
    list_name = "SLURM_JOB_NODELIST" if environment.get("SLURM_JOB_NODELIST") else "SLURM_NODELIST"
    nodes = parse_nodelist(_text(environment, list_name), list_name)
    node = _name(environment, "SLURMD_NODENAME")
    if node not in nodes:
        raise UsageError(f"SLURMD_NODENAME {quote(node)}: not among the nodes of the job")
    constraints = environment.get("SLURM_JOB_CONSTRAINTS", "")
    return SlurmJob(
        parse_job_id(environment),
        _number(environment, "SLURM_JOB_UID", 0, (1 << 32) - 2),
        _name(environment, "SLURM_JOB_PARTITION"),
        frozenset(_FEATURE.findall(constraints[:4096])),
        nodes,
        node,
    )


def is_chosen(settings: JobSettings, job: SlurmJob) -> bool:
    """Say whether the site wants this job to have a network; root's own have none."""
    kind, _, name = settings.jobs.partition(":")
    return job.uid != 0 and (
        kind == "all"
        or (kind == "partition" and name == job.partition)
        or (kind == "feature" and name in job.features)
        or is_open(settings, job)
    )


def is_open(settings: JobSettings, job: SlurmJob) -> bool:
    """Say whether this job's network is to have no filters."""
    return settings.open_partition != "" and job.partition == settings.open_partition


def _parse_open(text: str | None, jobs: str, name: str) -> str:
    """Return the partition whose jobs have no filters: one by its name, and none that JOBS names. Raises UsageError."""
    if not text:
        return ""
    found = _OPEN.fullmatch(text)
    if found is None:
        raise UsageError(f"{name}: OPEN {quote(text)}: which?", hint="use partition:NAME, for one that users can't use")
    if text == jobs:
        raise UsageError(f"{name}: OPEN {quote(text)}: JOBS names it, too", hint="a partition has filters, or none")
    return found[1]


def _parse_tunnel(values: Mapping[str, str], name: str) -> TunnelKind:
    """Return the kind of tunnel, which follows from the settings alone, so that all nodes choose alike."""
    text, has_key = values.get("TUNNEL", "auto"), bool(values.get("KEY"))
    if text not in tuple(TunnelKind):
        raise UsageError(f"{name}: TUNNEL {quote(text)}: which?", hint=f"use {', '.join(TunnelKind)}")
    kind = TunnelKind(text)
    if kind is TunnelKind.WIREGUARD and not has_key:
        raise UsageError(f"{name}: TUNNEL wireguard takes a KEY", hint="make one on one node, and copy it to all")
    if kind is TunnelKind.AUTO:
        return TunnelKind.WIREGUARD if has_key else TunnelKind.VXLAN
    return kind


def _parse_ports(values: Mapping[str, str], name: str) -> tuple[int, int]:
    text = values.get("PORTS")
    if not text:
        return DEFAULT_PORTS
    found = _PORTS.fullmatch(text)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < first <= last <= 65535:
        raise UsageError(f"{name}: PORTS {quote(text)}: which?", hint="use FIRST-LAST, as 200-298")
    return first, last


def _parse_path(values: Mapping[str, str], key: str, name: str) -> str:
    text = values.get(key, "")
    if text and not _PATH.fullmatch(text):
        raise UsageError(f"{name}: {key} {quote(text)}: not a whole path", hint="letters, digits and _.+- between /")
    return text


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise UsageError(f"{name}: not set", hint="SLURM sets it for Prolog and Epilog")
    return value


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int:
    value = _text(environment, name)
    if not _NUMBER.fullmatch(value) or not least <= int(value) <= most:
        raise UsageError(f"{name} {quote(value)}: not a number from {least} to {most}")
    return int(value)


def _name(environment: Mapping[str, str], name: str) -> str:
    value = _text(environment, name)
    if not _NAME.fullmatch(value):
        raise UsageError(f"{name} {quote(value)}: not a name")
    return value
