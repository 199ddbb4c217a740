# SPDX-License-Identifier: Apache-2.0
"""The user's clusters: each head enters its own in a small register, and whoever looks finds it there.

The register is a folder of the user's (`$XDG_STATE_HOME`, else ~/.local/state, below it chslurm/clusters) with a file
for each cluster, named by its id. Nodes share it through the home directory. It only says where to look: what is true
of a cluster stands in its job directory, and whether it lives is told by its lock and lease. A head takes its entry
away in the end; the entry of one that was killed is removed by who finds it so: on the same machine at once, elsewhere
after hours.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chslurm.errors import ChslurmError, UsageError
from chslurm.host.files import read_clock, write_file
from chslurm.host.lock import is_held, read_machine
from chslurm.host.staging import read_marker
from chslurm.jobdir import JobDir
from chslurm.plan import Plan, plan_from_json
from chslurm.siteconfig import CLUSTER_VARIABLE
from chslurm.units import LATEST_UNIX_S, quote

_ENTRY_MAX_BYTES = 16384
_PLAN_MAX_BYTES = 64 << 20
_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)

_CERTAIN_S = 6 * 3600.0
"""A head on another machine that has shown no life for so long is dead, whatever the clocks and caches here say."""

_OLD_S = 30 * 86400.0
"""The entry of a cluster whose job directory can't be seen from here is kept for so long."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster, as its job directory shows it."""

    plan: Plan  # its `job_dir` is where the directory was found
    running: bool  # its head lives

    @property
    def job_dir(self) -> JobDir:
        return JobDir(Path(self.plan.job_dir))

    @property
    def name(self) -> str:
        """The job directory's own name."""
        return Path(self.plan.job_dir).name


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the register says of one cluster."""

    cluster_id: str
    job_dir: str
    host: str  # where the head runs
    machine: str
    pid: int
    slurm_job_id: str
    started_unix_s: float


@dataclass(frozen=True, slots=True)
class Register:
    """The clusters that run, and the entries of those whose job directories can't be seen from this machine."""

    clusters: tuple[Cluster, ...]
    hidden: tuple[Entry, ...]


@contextmanager
def register_cluster(plan: Plan, say: Callable[[str], None]) -> Iterator[None]:
    """Have the cluster in the register until the end. A home that can't be written is only a note."""
    path = None
    try:
        path = _make_register() / plan.cluster_id
        write_file(path, msgspec.json.encode(_make_entry(plan)) + b"\n")
    except (OSError, RuntimeError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        say(f"can't register the cluster: {why}; name it by its job directory (chslurm status -c DIR)")
    try:
        yield
    finally:
        if path is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def read_register() -> Register:
    """Return the user's clusters, the oldest first; entries of those that are certainly over are removed."""
    clusters, hidden = [], []
    for path in _list_entries():
        entry = _read_entry(path)
        if entry is None:
            continue
        cluster = None
        with suppress(ChslurmError):
            cluster = read_cluster(Path(entry.job_dir))
        if cluster is not None and cluster.running and cluster.plan.cluster_id == entry.cluster_id:
            clusters.append(cluster)
        elif _is_over(entry):
            with suppress(OSError):
                path.unlink()
        elif cluster is None:
            hidden.append(entry)
    return Register(
        tuple(sorted(clusters, key=lambda cluster: cluster.plan.created)),
        tuple(sorted(hidden, key=lambda entry: entry.started_unix_s)),
    )


def find_clusters() -> list[Cluster]:
    """Return the user's clusters that run and are registered, the oldest first."""
    return list(read_register().clusters)


def read_cluster(root: Path) -> Cluster:
    """Return the cluster whose job directory is `root`. Raises UsageError when it is none, or not the user's."""
    name = f"job directory {quote(str(root))}"
    job_dir = JobDir(root)
    try:
        if root.stat().st_uid != os.geteuid() or read_marker(root) is None:
            raise ChslurmError("not one of yours that this tool made")
        plan = plan_from_json(_read_own(Path(job_dir.plan), _PLAN_MAX_BYTES))
        running = is_held(job_dir.lock, job_dir.lease(plan.cluster_id), read_clock=_read_clock)
    except FileNotFoundError as error:
        missing = "its cluster is only just being started" if error.filename == str(job_dir.plan) else "not there"
        raise UsageError(f"{name}: {missing}") from error
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error
    except ChslurmError as error:
        raise UsageError(f"{name}: {error}") from error
    return Cluster(dataclasses.replace(plan, job_dir=str(root)), running)


def select_cluster(name: str | None, cwd: Path, *, allow_ended: bool = False) -> Cluster:
    """Return the cluster that the user means: by `name`, $CHSLURM_CLUSTER, the directory we are in, or the only one.

    `name` is that of a job directory, the beginning of it or of a cluster id, or a path. Raises UsageError when there
    is none, when it could be several, or when it has ended and `allow_ended` is not set.
    """
    if name:
        cluster = _find_named(name, cwd, f"cluster {quote(name)}", allow_ended)
    elif name := os.environ.get(CLUSTER_VARIABLE):
        cluster = _find_named(name, cwd, f"{CLUSTER_VARIABLE} {quote(name)}", allow_ended)
    else:
        cluster = _find_around(cwd) or _find_single(allow_ended)
    if not cluster.running and not allow_ended:
        raise UsageError(f"cluster {quote(cluster.name)}: it has ended", hint=f"its output is in {cluster.job_dir.out}")
    return cluster


def _find_around(cwd: Path) -> Cluster | None:
    """The cluster in whose job directory we are."""
    for folder in (cwd, *cwd.parents):
        if _is_own(folder):
            return read_cluster(folder)
    return None


def _find_single(allow_ended: bool) -> Cluster:
    clusters = find_clusters()
    if not clusters:
        hint = "name the job directory of one that has ended" if allow_ended else "chrun starts one"
        raise UsageError("no cluster of yours runs", hint=hint)
    return _only(clusters, f"{len(clusters)} clusters of yours run")


def _find_named(name: str, cwd: Path, what: str, allow_ended: bool) -> Cluster:
    path = Path(os.path.realpath(cwd / name))
    here = [read_cluster(path)] if "/" in name or _is_own(path) else []
    if "/" in name:
        return here[0]
    clusters = find_clusters()
    places = [os.path.realpath(cluster.plan.job_dir) for cluster in clusters]
    clusters += [cluster for cluster in here if str(path) not in places]
    for fits in (
        [cluster for cluster in clusters if cluster.name == name and cluster.running],
        [cluster for cluster in clusters if cluster.name == name or str(path) == cluster.plan.job_dir],
        [cluster for cluster in clusters if cluster.name.startswith(name) or cluster.plan.cluster_id.startswith(name)],
    ):
        if fits:
            return _only(fits, f"{what}: could be {len(fits)}")
    ended = "; name one that has ended by its job directory" if allow_ended else ""
    raise UsageError(f"{what}: none of yours that runs is called so", hint=f"chslurm ps shows them{ended}")


def _is_own(folder: Path) -> bool:
    """Whether this is a job directory of the user's."""
    with suppress(OSError):
        return folder.stat().st_uid == os.geteuid() and bool(_ID.fullmatch(read_marker(folder) or ""))
    return False


def _only(clusters: list[Cluster], many: str, shown: int = 5) -> Cluster:
    if len(clusters) == 1:
        return clusters[0]
    names = [cluster.name for cluster in clusters]
    if len(set(names)) < len(names):
        names = [cluster.plan.job_dir for cluster in clusters]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    raise UsageError(f"{many}: {', '.join(names[:shown])}{more}", hint="name one with -c")


# -- the register itself ----------------------------------------------------------------------------------------------


def _register() -> Path:
    """Raises RuntimeError when the user has no home. A relative XDG_STATE_HOME counts for nothing (XDG)."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "chslurm" / "clusters"


def _make_register() -> Path:
    folder = _register()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_register(folder)
    return folder


def _check_register(folder: Path) -> None:
    """Raise OSError when others could have written into it."""
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others may write there", str(folder))


def _read_clock() -> float:
    """Return the time of the register's file system; where nothing can be written, that of this machine."""
    with suppress(OSError, RuntimeError):
        _check_register(_register())
        return read_clock(_register())
    return time.time()


def _make_entry(plan: Plan) -> Entry:
    host, now_s = socket.gethostname(), round(time.time(), 3)
    return Entry(plan.cluster_id, plan.job_dir, host, read_machine(), os.getpid(), plan.slurm_job_id, now_s)


def _list_entries() -> list[Path]:
    try:
        folder = _register()
        _check_register(folder)
        return [path for path in folder.iterdir() if _ID.fullmatch(path.name)]
    except (OSError, RuntimeError):
        return []


def _read_entry(path: Path) -> Entry | None:
    """None for what is not the user's own, or no entry."""
    try:
        entry = msgspec.json.decode(_read_own(path, _ENTRY_MAX_BYTES), type=Entry)
    except (OSError, msgspec.MsgspecError):
        return None
    sound = entry.cluster_id == path.name and os.path.isabs(entry.job_dir) and "\0" not in entry.job_dir
    return entry if sound and 0 <= entry.started_unix_s <= LATEST_UNIX_S else None


def _read_own(path: Path, most_bytes: int) -> bytes:
    """Return a file of the user's own. Raises OSError for any other, for links, and when it is too large."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "not a file of yours", str(path))
        if found.st_size > most_bytes:
            raise OSError(errno.EFBIG, "too large", str(path))
        return file.read(found.st_size)


def _is_over(entry: Entry) -> bool:
    """Whether a cluster that does not seem to run is certainly over."""
    age_s = time.time() - entry.started_unix_s
    here = entry.machine == read_machine()
    job_dir = JobDir(Path(entry.job_dir))
    if read_marker(Path(entry.job_dir)) is None:
        return age_s > _OLD_S or (here and not Path(f"/proc/{entry.pid}").exists())
    try:
        held = is_held(job_dir.lock, job_dir.lease(entry.cluster_id), silent_s=_CERTAIN_S)
        return not held and (here or age_s > _CERTAIN_S)
    except OSError:
        return False
