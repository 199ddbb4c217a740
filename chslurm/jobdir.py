# SPDX-License-Identifier: Apache-2.0
"""Every file name of a job directory, in one table.

charlie.20260102_030405/      0700
  .chslurm                    marker: the cluster id; only a directory that has it is ever used again
  meta/                       0755, read-only for guests at /ch/meta, no secrets
    sync/                     the one part guests may write
  ssh_config                  how to reach the guests while they run
  report.html, .json, .png    what happened, when it is over
  out/                        console, job output, one file for each helper
  run/                        0700: plan, keys, disks; never passed through (but `opt`, read-only)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

META_FILES = (
    "guest-count",
    "guests",
    "guest-macs",
    "hosts",
    "hostfile",
    "host-userdata",
    "proxy.sh",
    "resolv.conf",
    "jobscript",
    "interactive",
    "commit",
)
"""What the head may write into meta/; besides them the folders sync/ and test/."""


@dataclass(frozen=True, slots=True)
class JobDir:
    """The places of one job directory; builds paths, touches nothing."""

    root: PurePath

    @property
    def marker(self) -> PurePath:
        return self.root / ".chslurm"

    @property
    def ssh_config(self) -> PurePath:
        """For `ssh -F`; gone when the cluster has ended."""
        return self.root / "ssh_config"

    @property
    def page(self) -> PurePath:
        """What happened, for people: made when the cluster has ended, as are the next two."""
        return self.root / "report.html"

    @property
    def account(self) -> PurePath:
        """The same for programs."""
        return self.root / "report.json"

    @property
    def picture(self) -> PurePath:
        """Its chart alone."""
        return self.root / "report.png"

    @property
    def reports(self) -> tuple[PurePath, ...]:
        """All three, in the order in which they are made: what takes longest comes last."""
        return (self.page, self.account, self.picture)

    @property
    def meta(self) -> PurePath:
        return self.root / "meta"

    @property
    def sync(self) -> PurePath:
        return self.meta / "sync"

    @property
    def test(self) -> PurePath:
        return self.meta / "test"

    @property
    def jobscript(self) -> PurePath:
        return self.meta / "jobscript"

    @property
    def out(self) -> PurePath:
        return self.root / "out"

    @property
    def run(self) -> PurePath:
        return self.root / "run"

    def opt(self, cluster_id: str) -> PurePath:
        """The boot scripts that guests run. No two clusters have one name: a node may remember what was in the last."""
        return self.run / f"opt.{cluster_id}"

    @property
    def plan(self) -> PurePath:
        return self.run / "plan.json"

    @property
    def peers(self) -> PurePath:
        return self.run / "peers.json"

    @property
    def trial(self) -> PurePath:
        """A turn of a check of the network, for the hosts."""
        return self.run / "trial.json"

    @property
    def orders(self) -> PurePath:
        """The same for guests, who read it at /ch/meta/test/orders.json."""
        return self.test / "orders.json"

    def report(self, guest: int, turn: int) -> PurePath:
        """What a guest says of a turn."""
        return self.sync / f"check.{guest}.{turn}"

    @property
    def net_check(self) -> PurePath:
        """What came of a check of the network."""
        return self.run / "netcheck.json"

    def keys(self, cluster_id: str) -> PurePath:
        """Private keys of the cluster: certificate authority and the key of charlie. Gone when it has ended."""
        return self.run / f"keys.{cluster_id}"

    @property
    def lock(self) -> PurePath:
        """Held by the head while the cluster runs."""
        return self.run / "lock"

    def lease(self, cluster_id: str) -> PurePath:
        """A sign of life of the head beside the lock."""
        return self.run / f"lock.{cluster_id}"

    @property
    def events(self) -> PurePath:
        """Every event the head saw, a JSON object a line, with its time."""
        return self.run / "events.jsonl"

    @property
    def summary(self) -> PurePath:
        return self.run / "summary.json"

    def overlay(self, guest: int) -> PurePath:
        return self.run / f"{guest}.overlay.qcow2"

    def temporary_disk(self, guest: int) -> PurePath:
        return self.run / f"{guest}.tmp.qcow2"

    def saved_image(self, guest: int, image_format: str) -> PurePath:
        """What a guest changed, whole, when it could not be committed since the image had been replaced.

        It is the user's: no later cluster removes it.
        """
        return self.run / f"{guest}.saved.{image_format}"

    def console(self, guest: int) -> PurePath:
        return self.out / f"{guest}_console.out"

    def job_output(self, guest: int) -> PurePath:
        return self.out / f"{guest}_job.out"

    def job_errors(self, guest: int) -> PurePath:
        return self.out / f"{guest}_job.err"

    def guest_log(self, guest: int) -> PurePath:
        """What QEMU said, and what the host did for this guest."""
        return self.out / f"{guest}_oneguest.out"

    @property
    def step_log(self) -> PurePath:
        """What srun and the hosts' tasks said besides events."""
        return self.out / "step.out"


def name_first_part(log: PurePath) -> PurePath:
    """Where the beginning of a log is that has become too long: 0_console.first.out."""
    return log.with_name(f"{log.stem}.first{log.suffix}")


def name_part_before(log: PurePath) -> PurePath:
    """Where that is of it which came just before what is in it now."""
    return log.with_name(f"{log.stem}.before{log.suffix}")


_OUTPUT = re.compile(
    r"([0-9]+)_(?:(?:console|oneguest)(\.first|\.before)?\.out|job\.out|job\.err)|net_[0-9]+_\w+\.out|step\.out",
    re.ASCII,
)
_RUN_FILE = re.compile(
    r"[0-9]+\.(?:overlay|tmp)\.qcow2|plan\.json|peers\.json|trial\.json|netcheck\.json|events\.jsonl|summary\.json",
    re.ASCII,
)

_RUN_FOLDER = re.compile(r"(?:keys|opt)\.[0-9a-f]{16}", re.ASCII)


def find_guest_of_output(name: str) -> int | None:
    """Return the guest whose file in out/ this is, 0 for one of all guests, None for a file that is not the tool's."""
    found = _OUTPUT.fullmatch(name)
    return int(found[1] or 0) if found else None


def is_part(name: str) -> bool:
    """Say whether a file in out/ is a part of a log that has become too long."""
    found = _OUTPUT.fullmatch(name)
    return bool(found and found[2])


def is_run_folder(name: str) -> bool:
    """Say whether a folder in run/ is the tool's own."""
    return bool(_RUN_FOLDER.fullmatch(name))


def is_run_file(name: str) -> bool:
    """Say whether a file in run/ is the tool's own. The lock is not among them: it outlives every cluster."""
    return bool(_RUN_FILE.fullmatch(name))
