# SPDX-License-Identifier: Apache-2.0
"""What a launch needs of a host: facts that were found by trying become rows, each with a verdict and a remedy.

How bad a fact is depends on what a launch asks for (`Needs`): a host without pasta can carry a cluster of one node, and
one without KVM any cluster but that of `--accel kvm`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from chslurm.allocation import render_nodelist
from chslurm.kinds import Accelerator, Mode, NetworkKind, TunnelKind


class Verdict(StrEnum):
    """What a fact means for a launch."""

    OK = "ok"
    WARNING = "warning"  # guests run, but slower, with less, or only in some clusters
    FAILED = "failed"  # a launch fails
    NOT_TRIED = "not tried"


class Topic(StrEnum):
    """What is looked at, in the order of the table."""

    USER = "user"
    ALLOWED = "site's limits"
    PROGRAMS = "programs"
    QEMU = "QEMU"
    KVM = "KVM"
    VHOST = "vhost-net"
    PASSTHROUGH = "passthrough"
    IMAGE = "image"
    NAMESPACES = "user namespaces"
    TUN = "TAP devices"
    FILTERS = "packet filters"
    OUTSIDE = "pasta"
    WIREGUARD = "tunnel: WireGuard"
    VXLAN = "tunnel: VXLAN"
    SITE = "network of root's"
    MEMORY = "memory"
    JOB_SPACE = "job directories"
    TMP_SPACE = "temporary disks"
    SHM_SPACE = "/dev/shm"
    PATHS = "paths"
    LIMITS = "ulimit"
    CLOCK = "clock"
    SLURM = "SLURM"
    JOB = "SLURM job"
    STEPS = "SLURM steps"
    RECORDS = "SLURM records"
    MPI = "SLURM MPI"


class Row(msgspec.Struct, frozen=True):
    """One line of the table."""

    topic: Topic
    found: str
    verdict: Verdict = Verdict.OK
    remedy: str = ""  # with the command to type


@dataclass(frozen=True, slots=True)
class Needs:
    """What a launch would ask of this host."""

    mode: Mode = Mode.WORKSTATION
    host_ct: int = 1
    guest_ct: int = 2  # on this host
    ram_mib: int = 2048  # of each
    accelerator: Accelerator = Accelerator.AUTO
    tunnel: TunnelKind = TunnelKind.AUTO
    network: NetworkKind = NetworkKind.AUTO
    site: bool = False  # guests will be in a network that root has made

    @property
    def own_network(self) -> bool:
        """Whether the network is made here without root."""
        return not self.site


OF_A_LAUNCH = frozenset(
    {
        *(Topic.PROGRAMS, Topic.QEMU, Topic.KVM, Topic.PASSTHROUGH, Topic.IMAGE, Topic.NAMESPACES, Topic.TUN),
        *(Topic.FILTERS, Topic.OUTSIDE, Topic.WIREGUARD, Topic.VXLAN, Topic.MEMORY, Topic.JOB_SPACE, Topic.TMP_SPACE),
        *(Topic.PATHS, Topic.LIMITS, Topic.SITE),
    }
)
"""What a launch that has failed on a host looks at there."""

OF_A_HEAD = frozenset({Topic.PROGRAMS, Topic.IMAGE, Topic.JOB_SPACE, Topic.PATHS, Topic.SLURM, Topic.JOB, Topic.STEPS})
"""The same where the launcher itself runs, when no host has started."""

_NO_CAUSES = {Topic.KVM, Topic.VHOST, Topic.WIREGUARD, Topic.VXLAN}
"""Warnings about these say that guests are slower, or less safe, and not why there are none."""

MOST_TOLD = 6
"""So many rows end a launch that has failed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A row, and which nodes have it; none named when all have, or there is only this host."""

    row: Row
    nodes: str = ""


def choose_told(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that a launch which has failed ends with: what fails, or else what could have to do with it."""
    rows = list(rows)
    failed = [row for row in rows if row.verdict is Verdict.FAILED]
    warned = [row for row in rows if row.verdict is Verdict.WARNING and row.topic not in _NO_CAUSES]
    return (failed or warned)[:MOST_TOLD]


def render_row(row: Row) -> str:
    """Return a row as a line."""
    return f"{row.topic}: {row.found}" + (f"; {row.remedy}" if row.remedy else "")


def render_told(lines: Mapping[str, Sequence[str]], host_ct: int) -> list[str]:
    """Return the last lines of a launch that has failed: each told by these hosts, of so many."""
    told = list(lines.items())[:MOST_TOLD]
    return [
        f"doctor: {render_nodelist(names)}: {line}" if names and host_ct > 1 else f"doctor: {line}"
        for line, names in told
    ]


def merge_rows(answers: Mapping[str, Sequence[Row]]) -> list[Finding]:
    """Return the rows of all nodes: once what all say, with names where they differ."""
    said: dict[Row, list[str]] = {}
    for node, rows in answers.items():
        for row in rows:
            said.setdefault(row, []).append(node)
    order = {topic: number for number, topic in enumerate(Topic)}
    findings = [
        Finding(row, "" if len(nodes) == len(answers) else render_nodelist(nodes)) for row, nodes in said.items()
    ]
    return sorted(findings, key=lambda finding: order[finding.row.topic])


def is_bad(findings: Iterable[Finding]) -> bool:
    """Say whether a launch would fail."""
    return any(finding.row.verdict is Verdict.FAILED for finding in findings)


def render_verdicts(findings: Sequence[Finding]) -> str:
    """Return the last line of the table."""
    counts = {verdict: sum(finding.row.verdict is verdict for finding in findings) for verdict in Verdict}
    parts = [f"{count} {verdict}" for verdict, count in counts.items() if count]
    return f"{len(findings)} rows: {', '.join(parts)}"


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node says, a line each: a row, or, last of all, its time."""

    node: str
    row: Row | None = None
    row_ct: int = 0  # with the time: how many rows there were
    unix_s: float = 0.0


ANSWER_MAX_BYTES = 900
"""A longer line could be cut, or mixed with others, by slurmstepd."""


def encode_answer(answer: Answer) -> bytes:
    """Return one line of at most ANSWER_MAX_BYTES; what was found is cut at its end when it is longer."""
    line = msgspec.json.encode(answer)
    while len(line) >= ANSWER_MAX_BYTES and answer.row and (answer.row.found or answer.row.remedy):
        row, excess = answer.row, max(len(line) - ANSWER_MAX_BYTES, 8) + 1
        if len(row.found) > len(row.remedy):
            row = msgspec.structs.replace(row, found=row.found[: -excess - 1] + "…")
        else:
            row = msgspec.structs.replace(row, remedy=row.remedy[: -excess - 1] + "…")
        answer = msgspec.structs.replace(answer, row=row)
        line = msgspec.json.encode(answer)
    return line + b"\n"


def decode_answer(line: bytes) -> Answer | None:
    """Return what a node says; None for what is something else, such as words of srun."""
    try:
        return msgspec.json.decode(line, type=Answer)
    except msgspec.MsgspecError:
        return None
