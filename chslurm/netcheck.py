# SPDX-License-Identifier: Apache-2.0
"""The story of `chslurm net check`: boot a small cluster, attack it from inside, and say what arrived.

    all filters           nothing forbidden arrives, and what is allowed does
    without each family   still nothing: what is forbidden is forbidden in two places
    without any           the control: now all of it arrives

Filters are taken away by the holder of the namespaces, of this cluster only, which has no other guests than ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from chslurm.allocation import Allocation
from chslurm.cluster import Progress, run_cluster
from chslurm.controls import Report, add_controls, check_alike, parse_check, report_to_json
from chslurm.errors import ChslurmError, ExitCode, UsageError
from chslurm.filters import Family
from chslurm.host.configfiles import settle_request
from chslurm.host.files import find_data, read_small_file, write_file
from chslurm.host.place import read_allocation
from chslurm.host.trial import NetworkTrial
from chslurm.jobdir import JobDir
from chslurm.plan import Mode, NetworkKind, Plan
from chslurm.request import NOTHING_ASKED, RawOptions
from chslurm.units import parse_count
from chslurm.verdicts import count_controls, is_good, judge

CHECK_SCRIPT = "net-check.py"
"""In the folder `guest`: what guests do and see."""

_RAM = "384M"
_GUESTS_OF_HOST = 2


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What the user asked; `first_without` are families of filters that are missing when it counts, to see it found."""

    image: str
    short: bool = False
    guests: str | None = None
    job_dir: str | None = None
    boot_timeout: str | None = None
    network: str = "auto"
    tunnel: str = "auto"
    second_user: str | None = None
    control_for: str | None = None  # the report of a check in a network that root has made
    first_without: tuple[Family, ...] = ()


def check_network(options: CheckOptions, cwd: PurePath, progress: Progress, environment: Mapping[str, str]) -> Report:
    """Check the network of a cluster here, or in this SLURM job. Raises ChslurmError when that could not be done."""
    allocation = read_allocation(environment)
    guests = options.guests or str(_GUESTS_OF_HOST * len(allocation.nodes))
    check = _read_check(options, allocation, guests)
    trial = _Trial(options, progress, check)
    raw: RawOptions = {
        **NOTHING_ASKED,
        "image": options.image,
        "guests": guests,
        "cores": "1",
        "ram": _RAM,
        "my_size": allocation.mode is Mode.CLUSTER,
        "job": str(find_data("guest") / CHECK_SCRIPT),
        "jobname": "netcheck",
        "jobdir": options.job_dir,
        "boot_timeout": options.boot_timeout,
        "network": NetworkKind.SITE if check else _choose_network(options.network, allocation.mode),
        "tunnel": options.tunnel,
        "cleanup": True,
        "no_report": True,
    }
    status = run_cluster(settle_request(raw, cwd, environment), progress, environment, trial)
    if status or trial.report is None:
        error = ChslurmError(
            f"can't check the network: its cluster has ended with {status}", hint=f"see {trial.job_dir}"
        )
        if status in (ExitCode.INTERRUPTED, ExitCode.CANCELLED, ExitCode.TIME_LIMIT):
            error.exit_code = ExitCode(status)
        raise error
    write_file(JobDir(PurePath(trial.job_dir)).net_check, report_to_json(trial.report))
    return trial.report


def parse_families(text: str) -> tuple[Family, ...]:
    """Return the families that `netdev,bridge` names. Raises UsageError."""
    try:
        return tuple(Family(word) for word in text.split(",") if word)
    except ValueError as error:
        raise UsageError(f"--without: {error}", hint=f"use some of {', '.join(Family)}") from error


class _Trial(NetworkTrial):
    """Which passes there are is known with the plan."""

    def __init__(self, options: CheckOptions, progress: Progress, check: Report | None) -> None:
        second_user = options.second_user or ""
        super().__init__([options.first_without], progress.note, short=options.short, second_user=second_user)
        self._options, self._check, self.control = options, check, check is not None
        self.job_dir = ""

    def begin(self, plan: Plan) -> None:
        """Take in what was decided."""
        self.job_dir = plan.job_dir
        self._todo = _choose_passes(self._options, plan)
        super().begin(plan)

    @property
    def report(self) -> Report | None:
        """None when it was not done to the end."""
        if self.scene is None or len(self.passes) < len(self._todo) or not self._over:
            return None
        plan = self._plan
        hosts = tuple(host.name for host in plan.hosts)
        if self._check:
            return add_controls(self._check, count_controls(self.passes[0]), hosts)
        lines = judge(self.scene, self.passes)
        return Report(is_good(lines), plan.cluster_id, hosts, len(plan.guests), self._options.short, lines)


def _read_check(options: CheckOptions, allocation: Allocation, guests: str) -> Report | None:
    """Return the check that this is to be the control of. Raises UsageError when it can't be that."""
    name = options.control_for
    if name is None:
        return None
    if allocation.mode is not Mode.CLUSTER or options.network == NetworkKind.ROOTLESS:
        hint = "submit it to the partition that OPEN names"
        raise UsageError("--control-for: takes a network that root has made for a job", hint=hint)
    check = parse_check(read_small_file(Path(name)), name)
    ct = parse_count(guests, "-n")
    check_alike(check, name, host_ct=len(allocation.nodes), guests=ct, short=options.short)
    return check


def _choose_network(asked: str, mode: Mode) -> str:
    """In a job the hosts find out whose network there is, too late to choose passes: rootless, unless asked for."""
    return NetworkKind.ROOTLESS if mode is Mode.CLUSTER and asked == NetworkKind.AUTO else asked


def _choose_passes(options: CheckOptions, plan: Plan) -> Sequence[tuple[Family, ...]]:
    """The first counts; filters of root's are not ours to take away."""
    if options.short or plan.network is NetworkKind.SITE:
        return [options.first_without]
    each = [(family,) for family in Family]
    return [options.first_without, *each, tuple(Family)]
