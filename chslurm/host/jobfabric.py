# SPDX-License-Identifier: Apache-2.0
"""The network of a SLURM job on one node, made and removed by root. What it is says `jobnet`.

A folder of the job's own says, from before anything is made until all of it is gone, that there may be something; it is
also the lock. Names are fixed, so what one that was killed has left is found by name. Links go first, and do not wait
for an nft that hangs. All together is bounded in time, whatever a single program does.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from chslurm.errors import ChslurmError, DeviceError
from chslurm.host.linkgroups import delete_group, delete_link, find_group
from chslurm.host.process import run
from chslurm.host.rootfiles import lock_state, make_state_folder, remove_state
from chslurm.host.sysctls import write_sysctls
from chslurm.jobnet import JobNames, JobNetwork, make_job_removal, make_job_steps
from chslurm.network import GUESTS_NETNS, Place, Step, Tool

if TYPE_CHECKING:
    from chslurm.wireguard import HostKeys

JOBS_FOLDER = Path("/run/chslurm-jobs")

_STATE = "network"
_NETNS_FOLDER = Path("/run/netns")  # where ip-netns(8) has them
_BUDGET_S = 1.3  # for making, with what a failure adds below 2
_LINKS_S, _TABLES_S = 0.6, 0.25  # and then still for their removal
_CLONE_NEWNET = 0x40000000
_MNT_DETACH = 2
_ARGV = {
    Tool.IP: ("ip", "-batch", "-"),
    Tool.BRIDGE: ("bridge", "-batch", "-"),
    Tool.NFT: ("nft", "-f", "-"),
}
_libc = ctypes.CDLL(None, use_errno=True)


class Budget:
    """The time that is left."""

    def __init__(self, budget_s: float = _BUDGET_S) -> None:
        """Begin now."""
        self._until_s = time.monotonic() + budget_s

    def left_s(self, least_s: float = 0.05) -> float:
        """Return how long the next thing may take in seconds."""
        return max(self._until_s - time.monotonic(), least_s)


def start_job_network(
    network: JobNetwork, addresses: Sequence[str], path_mtu: int, budget: Budget, keys: HostKeys | None = None
) -> None:
    """Make a job's network anew. Raises ChslurmError; nothing that could carry a packet is left then.

    Of its kinds DeviceError says that this node can't have the tunnel.
    """
    names, private, public = network.names, keys.private if keys else b"", keys.public if keys else None
    with _hold(names.job_id) as folder:
        _remove(names, budget)
        if keys:  # once our own device of an earlier start is gone
            from chslurm.host.jobdevice import check_device

            remove_state(folder, _STATE)
            check_device(network.udp_port)
        (folder / _STATE).write_text(f"{network.job.uid}\n")  # that it is there is what counts
        try:
            for step in make_job_steps(network, addresses, path_mtu, public):
                _do(step, names, budget.left_s(), private)
        except BaseException as error:
            try:
                _remove(names, Budget(0.0))
                remove_state(folder, _STATE)
            except ChslurmError as second:
                raise ChslurmError(f"{error}; nor can all be removed: {second}") from error
            if keys and isinstance(error, ChslurmError):
                from chslurm.host.jobdevice import is_taken

                if is_taken(network.udp_port):  # since we looked
                    raise DeviceError(f"UDP port {network.udp_port} was taken on this node: {error}") from error
            raise


def stop_job_network(job_id: int, budget: Budget) -> bool:
    """Remove what there is of a job's network; say whether there was any. Raises ChslurmError."""
    names = JobNames(job_id)
    if not (_find_links(names) or _netns_path(names).exists() or (JOBS_FOLDER / str(job_id)).exists()):
        return False
    with _hold(job_id) as folder:
        _remove(names, budget)
        remove_state(folder, _STATE)
    return True


def find_jobs() -> list[int]:
    """Return the numbers of jobs that have, or may have, a network here."""
    with suppress(OSError):
        return sorted(int(entry.name) for entry in os.scandir(JOBS_FOLDER) if entry.name.isdecimal())
    return []


def check_root() -> None:
    """Raise ChslurmError when we are not root."""
    if os.geteuid():
        raise ChslurmError("can't make or remove the network of a job: not root", hint="SLURM's Prolog and Epilog are")


@contextmanager
def _hold(job_id: int) -> Iterator[Path]:
    """Hold the folder of one job: those of others do not wait for it."""
    make_state_folder(JOBS_FOLDER)
    with lock_state(JOBS_FOLDER / str(job_id)) as folder:
        yield folder


def _remove(names: JobNames, budget: Budget) -> None:
    """Remove whatever is there. Nothing is started when nothing is; tables alone do not tell, and are replaced."""
    links, path = _find_links(names), _netns_path(names)
    if not links and not path.exists() and not (JOBS_FOLDER / str(names.job_id) / _STATE).exists():
        return
    if len(links) > 1 and _are_all_ours(names):  # whether that was all is seen from what is left
        with suppress(OSError):
            delete_group(names.group)
    unlink, forget = make_job_removal(names, _find_links(names))
    _do(unlink, names, budget.left_s(_LINKS_S))
    _remove_netns(names, path)
    _do(forget, names, budget.left_s(_TABLES_S))


def _remove_netns(names: JobNames, path: Path) -> None:
    """Remove the namespace; vx0 first, as the kernel takes its time with a namespace, and vx0 has the job's number."""
    with suppress(OSError), _inside(names):
        if _has_link("vx0"):
            delete_link("vx0")  # if not now, then with the namespace
    _libc.umount2(os.fsencode(path), _MNT_DETACH)  # not mounted: `ip` was killed before
    path.unlink(missing_ok=True)


def _do(step: Step, names: JobNames, timeout_s: float, private_key: bytes = b"") -> None:
    if not step.text:
        return
    text = step.text.replace(GUESTS_NETNS, names.netns)
    try:
        if step.place is Place.GUESTS:
            with _inside(names):
                if step.tool is Tool.WG:
                    from chslurm.host.jobdevice import set_up_device

                    set_up_device(text, private_key)
                else:
                    _do_here(step.tool, text, timeout_s)
        else:
            _do_here(step.tool, text, timeout_s)
    except OSError as error:
        raise ChslurmError(f"can't make the network of job {names.job_id}: {error}") from error


def _do_here(tool: Tool, text: str, timeout_s: float) -> None:
    if tool is Tool.SYSCTL:
        write_sysctls(text)
    else:
        run(_ARGV[tool], input_text=text, timeout_s=timeout_s, die_with_parent=True)


@contextmanager
def _inside(names: JobNames) -> Iterator[None]:
    """Be in the job's own namespace. Raises OSError when there is none."""
    ours = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(_netns_path(names), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _enter(theirs)
        finally:
            os.close(theirs)
        try:
            yield
        finally:
            _enter(ours)
    finally:
        os.close(ours)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _are_all_ours(names: JobNames) -> bool:
    """Say whether a group's links can go at once: somebody else may use the same number. Else each goes by its name."""
    try:
        return all(map(names.owns, find_group(names.group)))
    except OSError:
        return False


def _find_links(names: JobNames) -> list[str]:
    return [link for _, link in socket.if_nameindex() if names.owns(link)]


def _has_link(name: str) -> bool:
    return any(link == name for _, link in socket.if_nameindex())


def _netns_path(names: JobNames) -> Path:
    return _NETNS_FOLDER / names.netns
