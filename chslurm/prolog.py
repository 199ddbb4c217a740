# SPDX-License-Identifier: Apache-2.0
"""STORIES of root on a node of a SLURM job: its network made before it starts (Prolog), and removed after it (Epilog).

What SLURM's variables say is all that is taken from outside, and the settings, which only root can write. Nothing is
done for a job that the site has not chosen. A network that can't be made is no reason not to start the job, unless the
settings say so; a step that fails is: SLURM drains the node then, and starts the job elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from chslurm.errors import ChslurmError, DeviceError, UsageError
from chslurm.host.jobfabric import Budget, check_root, find_jobs, start_job_network, stop_job_network
from chslurm.host.peers import find_addresses, find_path_mtu
from chslurm.host.rootfiles import forget_environment, read_root_file
from chslurm.jobnet import JobNames, JobNetwork, make_job_network, make_job_removal, make_job_steps
from chslurm.kinds import TunnelKind
from chslurm.network import render_steps
from chslurm.slurmjob import JobSettings, SlurmJob, is_chosen, parse_job, parse_job_id, parse_job_settings

if TYPE_CHECKING:
    from chslurm.wireguard import HostKeys

Say = Callable[[str], None]


def run_prolog(environment: Mapping[str, str], settings_file: PurePath, say: Say) -> None:
    """Make the network of the job, if it is to have one. Raises ChslurmError, UsageError: the job is not to start."""
    budget = Budget()
    values = dict(environment)
    forget_environment()
    settings = read_job_settings(settings_file)
    if settings is None:
        return
    job = parse_job(values)
    if not is_chosen(settings, job):
        return
    check_root()
    keys, known = _make_keys(job, settings), _read_nodes(job, settings)
    try:
        network = make_job_network(job, settings)
        addresses, path_mtu = _look(network, known, budget)
    except ChslurmError as error:
        stop_job_network(job.id, budget)  # what an earlier start of this job has left
        if settings.required:
            raise
        say(f"job {job.id} gets no network: {error}")
        return
    try:
        start_job_network(network, addresses, path_mtu, budget, keys)
    except DeviceError as error:
        if settings.required:
            raise
        say(f"job {job.id} gets no network: {error}")
    _sweep(job.id, budget, say)


def run_epilog(environment: Mapping[str, str], say: Say) -> None:
    """Remove the network of the job, whatever the settings are by now. Raises ChslurmError when something is left."""
    values = dict(environment)
    forget_environment()
    job_id = parse_job_id(values)
    stop_job_network(job_id, Budget())


def explain_prolog(environment: Mapping[str, str], settings_file: PurePath, *, epilog: bool) -> str:
    """Return what root would run for a job, as text; peers' addresses and the MTU are looked up, nothing is changed."""
    if epilog:
        names = JobNames(parse_job_id(environment))
        links = (names.tap(1), names.veth, names.bridge)
        return render_steps(make_job_removal(names, links)) + f"and namespace {names.netns} is removed\n"
    settings = read_job_settings(settings_file) or JobSettings()
    job = parse_job(environment)
    if not is_chosen(settings, job):
        return f"nothing: job {job.id} is not among those with JOBS={settings.jobs}\n"
    network = make_job_network(job, settings)
    where = _look(network, _read_nodes(job, settings), Budget())
    if not network.is_secure:
        return render_steps(make_job_steps(network, *where))
    from chslurm.jobtunnel import make_shown_keys

    return render_steps(make_job_steps(network, *where, make_shown_keys(job)))


def read_job_settings(settings_file: PurePath) -> JobSettings | None:
    """Return the settings; None where there are none. Raises UsageError for bad ones, and what others could change."""
    try:
        return parse_job_settings(read_root_file(settings_file), str(settings_file))
    except UsageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _make_keys(job: SlurmJob, settings: JobSettings) -> HostKeys | None:
    """Return the keys of this node if the job needs any. Raises UsageError, as for bad settings."""
    if settings.tunnel is not TunnelKind.WIREGUARD or len(job.nodes) == 1:
        return None
    from chslurm.jobtunnel import derive_job_keys, parse_secret

    secret = parse_secret(read_root_file(PurePath(settings.key_file), secret=True), settings.key_file)
    return derive_job_keys(secret, job)


def _read_nodes(job: SlurmJob, settings: JobSettings) -> dict[str, str]:
    """Return the addresses that the site has written down. Raises UsageError."""
    if not settings.nodes_file or len(job.nodes) == 1:
        return {}
    from chslurm.jobtunnel import MOST_NODES_FILE_BYTES, parse_nodes

    text = read_root_file(PurePath(settings.nodes_file), MOST_NODES_FILE_BYTES)
    return parse_nodes(text, settings.nodes_file)


def _look(network: JobNetwork, known: Mapping[str, str], budget: Budget) -> tuple[list[str], int]:
    """Return the addresses of all nodes and the MTU between them; nothing for a job of one node."""
    job = network.job
    if len(job.nodes) == 1:
        return [], 0
    if network.settings.nodes_file:
        from chslurm.jobtunnel import pick_addresses

        addresses = pick_addresses(job.nodes, known, network.settings.nodes_file)
    else:
        addresses = find_addresses(job.nodes, job.node, budget.left_s())
    return addresses, network.settings.mtu or find_path_mtu(addresses, addresses[job.host - 1])


def _sweep(own: int, budget: Budget, say: Say) -> None:
    """Remove networks of jobs that are certainly over: SLURM runs no epilog on a node that it has given up."""
    others = [job_id for job_id in find_jobs() if job_id != own]
    if others:
        from chslurm.host.overjobs import find_over

        for job_id in find_over(others, budget.left_s()):
            try:
                stop_job_network(job_id, budget)
                say(f"removed the network of job {job_id}, which is over")
            except ChslurmError as error:  # no fault of the job that is to start; the next one tries again
                say(f"can't remove the network of job {job_id}, which is over: {error}")
