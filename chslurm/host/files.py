# SPDX-License-Identifier: Apache-2.0
"""How files are written and read that others read and write: whole or not at all, and never through a link."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path, PurePath
from typing import BinaryIO

import chslurm
from chslurm.errors import ChslurmError
from chslurm.plan import Plan, plan_digest, plan_from_json

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_PATIENCE_S = 60.0
"""A host waits so long for what the head wrote: a shared file system may show an old state (NFS: up to 60 s)."""


def find_data(name: str) -> Path:
    """Return the folder `guest`, `examples` or `sbatch-templates`: of the installed package, or of the checkout."""
    package = Path(chslurm.__file__).parent
    installed = package / "data" / name
    return installed if installed.exists() else package.parent / name


def write_file(path: PurePath, data: bytes, mode: int = 0o600) -> None:
    """Write a file aside and rename it, so that a reader sees it whole or not at all. Raises OSError."""
    aside = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            os.fchmod(fd, mode)
        os.rename(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def open_append(path: PurePath) -> BinaryIO:
    """Open a file of the job directory to write at its end, unbuffered; it is made if need be, for its owner only.

    Whoever could write into the directory before may have left anything under this name: links are not followed.
    Raises OSError, also for what is no regular file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    os.set_blocking(fd, True)
    return open(fd, "ab", buffering=0)


async def read_shared(path: PurePath, digest: str) -> bytes:
    """Return what the head wrote to `path`, as soon as it has this digest. Raises ChslurmError when it never does."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        found = None
        with suppress(OSError):
            found = Path(path).read_bytes()
        if found is not None and plan_digest(found) == digest:
            return found
        if time.monotonic() > deadline_s:
            state = "not there" if found is None else "not what the head wrote"
            hint = "put the job directory on a file system that all nodes share"
            raise ChslurmError(f"can't use {path}: {state}", hint=hint)
        await asyncio.sleep(0.5)


def read_plan(path: PurePath, *, cluster_id: str, digest: str) -> Plan:
    """Return the plan that the head wrote. Raises ChslurmError when it does not appear, or is of another cluster."""
    plan = plan_from_json(asyncio.run(read_shared(path, digest)))
    if plan.cluster_id != cluster_id:
        raise ChslurmError(f"can't use the plan {path}: it is of cluster {plan.cluster_id}, not {cluster_id}")
    return plan


def make_folder(path: PurePath, mode: int) -> None:
    """Make a folder, or take the one that is there, whoever changed its mode. A link is none. Raises OSError."""
    Path(path).mkdir(exist_ok=True)
    if os.path.islink(path):
        raise OSError(errno.ENOTDIR, "a symbolic link, not a folder", str(path))
    os.chmod(path, mode)


def clear_folder(path: PurePath) -> None:
    """Empty a folder that a stranger filled, now gone: no link is followed, no name, depth or mode is too odd.

    Folders in it are not gone down into, but brought up one level at a time, until there are none. Raises OSError.
    """
    top = os.open(path, _FOLDER)
    try:
        while folders := _remove_files(top):
            for name in folders:
                folder = os.open(name, _FOLDER, dir_fd=top)
                try:
                    for below in _remove_files(folder):
                        os.rename(below, f".{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
                finally:
                    os.close(folder)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _remove_files(folder: int) -> list[str]:
    """Remove everything in a folder but folders, which are returned and can be opened and moved then."""
    names = []
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.name, 0o700, dir_fd=folder)
                names.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return names
