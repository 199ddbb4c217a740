# SPDX-License-Identifier: Apache-2.0
"""The job directory: claimed, locked and filled before anything starts, and closed when all is over.

Of a directory that is used again only the tool's own files are replaced (`jobdir` knows their names), only where its
marker is, and never while a cluster runs in it. Output files keep their inode, so that `tail -F` goes on following.
All is for the owner only but what guests see, whatever the umask; nothing that guests could write to is believed.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath

from chslurm.errors import ChslurmError, UsageError
from chslurm.host.files import clear_folder, find_data, make_folder, write_file
from chslurm.host.keys import render_key_files
from chslurm.host.lock import check_unlocked, hold_lock, renew_lease
from chslurm.host.process import make_own_argv
from chslurm.jobdir import META_FILES, JobDir, find_guest_of_output, is_part, is_run_file, is_run_folder
from chslurm.meta import make_meta_files
from chslurm.plan import Plan, plan_to_json
from chslurm.sshconfig import render_ssh_config
from chslurm.units import quote

# fmt: off
DISTRIBUTIONS = (
    "bullseye", "bookworm", "trixie", "forky", "focal", "jammy", "noble",
    "debian", "ubuntu", "fedora", "rhel", "rocky", "almalinux", "opensuse-leap",
)
# fmt: on
"""Names under which a guest may look for its boot scripts in /ch/opt; all lead to `linux`."""


def check_job_dir(root: Path) -> None:
    """Raise UsageError unless `root` is ours to use again, or can be made. A look only: `start_job_dir` decides."""
    name = _name(root)
    try:
        if not os.path.lexists(root):
            if not stat.S_ISDIR(root.parent.stat().st_mode) or not os.access(root.parent, os.W_OK | os.X_OK):
                raise UsageError(f"{name}: nothing can be made there", hint="choose another place with --jobbase")
            return
        found = root.stat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or read_marker(root) is None:
            hint = "choose another name"
            raise UsageError(f"{name}: exists, and is not one of yours that this tool made", hint=hint)
        check_unlocked(JobDir(root).lock, name)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error


@contextmanager
def start_job_dir(plan: Plan, *, reuse: bool) -> Iterator[Plan]:
    """Make or take over the job directory and fill it; yields the plan with the directory's true name.

    It is locked until the end, and stays with all that is in it but the keys. Raises UsageError when it may not be
    used, ChslurmError when it can't be written.
    """
    root = Path(plan.job_dir)
    with ExitStack() as stack:
        try:
            if not (reuse and root.exists()):
                root = _make_root(root, plan.cluster_id, reuse)
            check_job_dir(root)
            job_dir, cluster_id = JobDir(root), plan.cluster_id
            root.chmod(0o700)
            make_folder(job_dir.run, 0o700)
            stack.enter_context(hold_lock(job_dir.lock, job_dir.lease(cluster_id), _name(root)))
            stack.callback(shutil.rmtree, job_dir.keys(cluster_id), ignore_errors=True)
            stack.callback(_remove, job_dir.ssh_config)
            plan = _fill(job_dir, dataclasses.replace(plan, job_dir=str(root)))
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise ChslurmError(f"can't write {_name(root)}: {error.strerror}{where}") from error
        yield plan


def renew_job_dir(plan: Plan) -> bool:
    """Show that the directory is in use, and bring an edited job script to the guests; say whether there was one.

    To be called every few seconds. Raises ChslurmError when another cluster has taken the directory.
    """
    job_dir = JobDir(PurePath(plan.job_dir))
    renew_lease(job_dir.lease(plan.cluster_id), _name(job_dir.root))
    if plan.job.script is None:
        return False
    jobscript = Path(job_dir.jobscript)
    with suppress(OSError):
        theirs, ours = os.stat(plan.job.script), os.stat(jobscript)
        same_file = os.path.samestat(theirs, ours)
        if not same_file and (theirs.st_mtime_ns, theirs.st_size) != (ours.st_mtime_ns, ours.st_size):
            _place_jobscript(plan.job.script, jobscript)
            return True
    return False


def _make_root(wanted: Path, cluster_id: str, exact: bool) -> Path:
    """Make the directory. Of two that start in one second the later gets a suffix."""
    for attempt in range(1, 100):
        root = wanted if attempt == 1 else wanted.with_name(f"{wanted.name}.{attempt}")
        try:
            root.mkdir(mode=0o700)
        except FileExistsError:
            if exact:
                return root
            continue
        root.chmod(0o700)  # whatever the umask took away
        write_file(JobDir(root).marker, f"{cluster_id}\n".encode())
        return root
    raise UsageError(f"{_name(wanted)}: exists", hint="choose a name with --jobdir")


def read_marker(root: Path) -> str | None:
    """Return the cluster id in the marker; None when there is no marker of ours. Symbolic links are no markers."""
    with suppress(OSError, ValueError):
        fd = os.open(JobDir(root).marker, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return file.read(64).decode("ascii").strip()
    return None


def _fill(job_dir: JobDir, plan: Plan) -> Plan:
    """Put everything in its place; the plan comes last."""
    from chslurm.host.keymaking import make_cluster_keys

    for folder, mode in ((job_dir.meta, 0o755), (job_dir.sync, 0o755), (job_dir.test, 0o755), (job_dir.out, 0o700)):
        make_folder(folder, mode)
    _clear(job_dir, plan)
    write_file(job_dir.marker, f"{plan.cluster_id}\n".encode())
    for name, text in make_meta_files(plan).items():
        write_file(job_dir.meta / name, text.encode(), 0o644)
    keys = job_dir.keys(plan.cluster_id)
    make_folder(keys, 0o700)
    for name, text in render_key_files(make_cluster_keys(plan.cluster_id)).items():
        write_file(keys / name, text.encode())
    proxy = make_own_argv("chslurm.cli.main", "connect", "--cluster", plan.job_dir)
    write_file(job_dir.ssh_config, render_ssh_config(plan, proxy).encode())
    _copy_boot_scripts(job_dir.opt(plan.cluster_id))
    if plan.job.script is not None:
        why = _place_jobscript(plan.job.script, Path(job_dir.jobscript))
        if why:
            note = f"/ch/meta/jobscript is a copy ({why}): edits reach guests after some seconds"
            plan = dataclasses.replace(plan, warnings=(*plan.warnings, note))
    write_file(job_dir.plan, plan_to_json(plan))
    return plan


def _clear(job_dir: JobDir, plan: Plan) -> None:
    """Take away what an earlier cluster left, and nothing else."""
    for path in (*job_dir.reports, *(job_dir.meta / name for name in META_FILES)):
        Path(path).unlink(missing_ok=True)
    clear_folder(job_dir.sync)
    for path in Path(job_dir.out).iterdir():
        guest = find_guest_of_output(path.name)
        if guest is not None:
            path.unlink() if guest >= len(plan.guests) or is_part(path.name) else _empty(path)
    for path in Path(job_dir.run).iterdir():
        if is_run_file(path.name):
            path.unlink()
        elif is_run_folder(path.name):
            shutil.rmtree(path)


def _remove(path: PurePath) -> None:
    with suppress(OSError):
        Path(path).unlink()


def _empty(path: Path) -> None:
    """Empty a file in its place; a link that somebody put there is removed, not followed."""
    if path.is_symlink():
        path.unlink()
        return
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _copy_boot_scripts(opt: PurePath) -> None:
    """Copy the boot scripts of this version, whatever becomes of the installed ones while the cluster runs."""
    linux = opt / "linux"
    make_folder(opt, 0o755)
    make_folder(linux, 0o755)
    for script in find_data("guest").glob("*.sh"):
        write_file(linux / script.name, script.read_bytes(), 0o755)
    for distribution in DISTRIBUTIONS:
        os.symlink("linux", opt / distribution)


def _place_jobscript(script: str, jobscript: Path) -> str:
    """Make `jobscript` a hard link to the script, else a copy: then say why. An old one is replaced in one step."""
    aside = jobscript.with_name(f".jobscript.{secrets.token_hex(4)}")
    why = ""
    try:
        try:
            os.link(os.path.realpath(script), aside)
        except OSError as error:
            why = "it is on another file system" if error.errno == errno.EXDEV else str(error.strerror)
            shutil.copy2(script, aside)
        os.rename(aside, jobscript)
    finally:
        aside.unlink(missing_ok=True)  # when copying failed; or when both were one file, which rename leaves alone
    return why


def _name(root: PurePath) -> str:
    return f"job directory {quote(str(root))}"
