# SPDX-License-Identifier: Apache-2.0
"""The history of an image, which travels in it: who made it of what, and who committed to it, when.

It lies in the boot bundle between headers and payloads (see `bundle`), from 64 KiB to 1 MiB of the partition:

    "CHSLURM-HISTORY 1\\n", then a JSON object a line, the oldest first; NUL bytes behind

Root of a guest can write there what it likes, so it tells and proves nothing. Pure: bytes in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

import msgspec

from chslurm.messages import printable
from chslurm.plan import Layer, Plan
from chslurm.units import render_size

HISTORY_AT = (1 << 20) + (64 << 10)
"""From the start of the disk, in bytes."""

HISTORY_BYTES = 960 << 10

_MAGIC = b"CHSLURM-HISTORY 1\n"
_GRAIN = 64 << 10  # so much is written at least: a cluster of qcow2
_LINE_MAX = 16 << 10
_PATH_MAX = 4096


class Deed(StrEnum):
    """What was done to an image."""

    BUILT = "built"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One deed. A guest is one of a cluster: the three fields about it are empty for what was built."""

    deed: Deed
    at: str  # UTC, ISO 8601
    by: str  # user and host
    version: str  # of chslurm
    kernel: str  # that the image boots from now on; empty when its own loader knows
    source: Layer | None = None  # the image that this one was made from
    cluster_id: str = ""
    guest: int = -1
    job_dir: str = ""


_decoder = msgspec.json.Decoder(Entry)


def make_commit_entry(plan: Plan, guest: int, *, now: datetime, by: str, version: str, kernel: str) -> Entry:
    """Return the entry of a guest's commit to the image of its plan."""
    source = plan.image.layers[0]
    at = now.isoformat(timespec="seconds")
    return Entry(Deed.COMMITTED, at, by, version, kernel, source, plan.cluster_id, guest, plan.job_dir)


def parse_history(region: bytes) -> tuple[Entry, ...]:
    """Return the entries in the HISTORY_BYTES at HISTORY_AT, fit for a terminal. What is no entry is left out."""
    if not region.startswith(_MAGIC):
        return ()
    text = region[len(_MAGIC) : HISTORY_BYTES].partition(b"\0")[0]
    found = (_parse_entry(line) for line in text.splitlines() if len(line) <= _LINE_MAX)
    return tuple(entry for entry in found if entry is not None)


def render_history(entries: Iterable[Entry]) -> bytes:
    """Return the bytes to write at HISTORY_AT, a multiple of 64 KiB.

    When there is too little room the oldest are left out, but never the first, which tells what the image was made of.
    """
    first, *others = [msgspec.json.encode(entry) + b"\n" for entry in entries]
    room = HISTORY_BYTES - len(_MAGIC) - 1 - len(first)
    while sum(map(len, others)) > room:
        del others[0]
    text = b"".join((_MAGIC, first, *others))
    return text.ljust((len(text) // _GRAIN + 1) * _GRAIN, b"\0")


def render_entry(entry: Entry) -> str:
    """Return one line for people."""
    words = [entry.at, str(entry.deed), f"by {entry.by}", f"with chslurm {entry.version}"]
    if entry.deed is Deed.COMMITTED:
        words.append(f"from guest {entry.guest} of {entry.job_dir}")
    if entry.source is not None:
        size = render_size(entry.source.size_bytes >> 20)
        words.append(f"to {entry.source.path} ({size}, inode {entry.source.inode})")
    return ", ".join([*words, f"kernel {entry.kernel}" if entry.kernel else "no boot bundle"])


def _parse_entry(line: bytes) -> Entry | None:
    try:
        entry = _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return None
    source = entry.source
    return Entry(
        deed=entry.deed,
        at=printable(entry.at),
        by=printable(entry.by),
        version=printable(entry.version),
        kernel=printable(entry.kernel),
        source=source and replace(source, path=printable(source.path, _PATH_MAX), format=printable(source.format)),
        cluster_id=printable(entry.cluster_id),
        guest=entry.guest,
        job_dir=printable(entry.job_dir, _PATH_MAX),
    )
