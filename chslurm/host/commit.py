# SPDX-License-Identifier: Apache-2.0
"""Write what a guest changed into its image, so that the image is wholly old or wholly new whatever is killed.

The guest's disk becomes one new file in the image's folder. While it is made it has no name, so a commit that is killed
leaves nothing; where the file system has no such files it has a hidden one, which the next commit removes. When it is
whole and on the disk it takes the image's name. All the while the old image is locked: of two commits one is refused.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chslurm.commit import Use, find_conflict
from chslurm.errors import ChslurmError
from chslurm.flatten import check_room, is_aside_name, make_aside_name, make_flatten_argv, make_source
from chslurm.history import Entry
from chslurm.host.aside import Aside, open_folder, start_aside
from chslurm.host.bundle import read_boot_bundle
from chslurm.host.disks import check_unchanged
from chslurm.host.history import add_to_history
from chslurm.host.lock import NO_LOCKS
from chslurm.host.process import watch
from chslurm.host.target import ask_about, is_shared, measure, read_free, read_use
from chslurm.plan import Image, Layer

_FITS_NO_OTHER = "the overlay fits no other"


class _Check(msgspec.Struct):
    """What `qemu-img check --output=json` says."""

    errors: int = msgspec.field(name="check-errors", default=0)
    corruptions: int = 0
    allocated: int = msgspec.field(name="allocated-clusters", default=0)
    compressed: int = msgspec.field(name="compressed-clusters", default=0)


class ImageChanged(ChslurmError):
    """The image is not what the guest's disk was made over."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What is to be done.

    `tick` is called a few times a second and may raise to stop the commit, `progress` with bytes written and expected.
    `entry` makes the line of the image's history from the kernel that it will boot.
    """

    image: Image
    overlay: Path
    shown: Callable[[Path], str]  # how paths are told; told only
    say: Callable[[str], None]
    tick: Callable[[], None]
    progress: Callable[[int, int], None]
    entry: Callable[[str], Entry]
    nameless: bool = True  # False: as on file systems that know no files without a name


def commit_overlay(commit: Commit) -> Layer:
    """Make overlay and image the new image, delete the overlay, and return what identifies the new image.

    Raises ChslurmError when that may not be or can't be done: image and overlay are then what they were.
    """
    path = Path(commit.image.path)
    try:
        with _hold(path):
            _check(commit, path)
            _check_overlay(commit)
            with start_aside(_name_aside(path), nameless=commit.nameless) as aside:
                _fill(commit, aside)
                _dress(aside.fd, path)
                watch(["sync", aside.writable], commit.tick, pass_fds=[aside.fd])  # which may take its time
                os.fsync(aside.fd)
                use = _check(commit, path)
                commit.tick()
                _replace(aside, path, commit)
                found = os.fstat(aside.fd)
    except OSError as error:
        raise ChslurmError(f"{error.strerror}: {error.filename or path}") from error
    commit.say("Image committed.")
    if use.read:
        commit.say("guests that run from the old image go on with it; the next cluster gets the new one")
    with suppress(OSError):
        commit.overlay.unlink()
        commit.say(f"deleted {commit.shown(commit.overlay)}")
    return Layer(str(path), commit.image.format, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@contextmanager
def _hold(path: Path) -> Iterator[None]:
    """Lock the image as it is now. Raises ChslurmError when another commit holds it."""
    try:  # for writing: some file systems across the network lock only what can be written
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ImageChanged(f"{path}: {error.strerror}", hint=_FITS_NO_OTHER) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                cause = "another commit to it is going on, or guests run from it"
                raise ChslurmError(cause, hint="wait until that has ended") from error
        else:
            if not os.path.samestat(os.fstat(fd), path.stat()):
                raise ChslurmError("another commit has just replaced it")
            _remove_stale(path)
        yield
    finally:
        os.close(fd)


def _remove_stale(image: Path) -> None:
    """Remove what commits to this image left that were killed: nobody else makes one now."""
    for name in os.listdir(image.parent):
        if is_aside_name(name, image):
            with suppress(OSError):
                os.unlink(image.parent / name)


def _check(commit: Commit, path: Path) -> Use:
    """Raise ChslurmError unless the image may be replaced now; return who runs from it all the same."""
    try:
        check_unchanged(commit.image)
    except ChslurmError as error:
        cause = error.message.removeprefix("can't use image: ")
        raise ImageChanged(cause, hint=_FITS_NO_OTHER) from error
    use = read_use(path)
    if conflict := find_conflict(use, shared=is_shared(path)):
        raise ChslurmError(conflict, hint="wait until they have ended")
    return use


def _check_overlay(commit: Commit) -> None:
    """Raise ChslurmError unless the overlay is one of this image, whole, and nobody's any more."""
    name = commit.shown(commit.overlay)
    if read_use(commit.overlay).written:
        raise ChslurmError(f"{name}: a QEMU still writes to it", hint="wait until it has ended")
    backing = ask_about(commit.overlay, "qcow2").backing
    if backing != commit.image.path:
        raise ChslurmError(f"{name} is not an overlay of it, but of {backing}")
    _check_whole(commit, commit.overlay, name)


def _check_whole(commit: Commit, disk: Path, name: str) -> _Check:
    """Raise ChslurmError when a qcow2 file is damaged. Clusters that nobody uses any more do no harm."""
    argv = ["qemu-img", "check", "-U", "--output=json", "-f", "qcow2", str(disk)]
    done = watch(argv, commit.tick, check=False)
    try:
        found = msgspec.json.decode(done.stdout, type=_Check)
    except msgspec.MsgspecError as error:
        raise ChslurmError(f"{name} can't be checked: {done.stderr.strip()}") from error
    if found.corruptions or found.errors:
        raise ChslurmError(f"{name} is damaged", hint=f"qemu-img check {name} says more")
    return found


def _name_aside(image: Path) -> Path:
    return image.parent / make_aside_name(image, secrets.token_hex(4))


def _fill(commit: Commit, aside: Aside) -> None:
    """Write the guest's disk into the new file, with its history, and look whether it is whole."""
    image, path = commit.image, Path(commit.image.path)
    # QEMU locks bytes that ours, on a file system that makes it one of the whole file, would deny it.
    locking = not is_shared(path)
    needed = measure(make_source(commit.overlay, image, locking=locking), image)
    check_room(needed, read_free(path.parent), path.parent, "can't make the new image", "make room there")
    info = ask_about(path, image.format)
    old = _check_whole(commit, path, commit.shown(path)) if image.format == "qcow2" else _Check()
    compress = old.compressed * 2 > old.allocated

    def make_argv(overlay: Path | str, target: str) -> list[str]:
        source = make_source(overlay, image, locking=locking)
        return make_flatten_argv(source, image, info, target, compress=compress)

    commit.say(f"$ {shlex.join(make_argv(commit.shown(commit.overlay), commit.shown(aside.path)))}")

    def tick() -> None:
        commit.tick()
        commit.progress(os.fstat(aside.fd).st_blocks * 512, needed)

    watch(make_argv(commit.overlay, aside.writable), tick, pass_fds=[aside.fd])
    _write_history(commit, aside.readable)
    if image.format == "qcow2":
        _check_whole(commit, aside.readable, "the new image")


def _write_history(commit: Commit, disk: Path) -> None:
    """Add a line to the history that the image carries, if it has a boot bundle.

    Raises ChslurmError, too, when the image would not boot: when all kernels that it carries are damaged.
    """
    bundle = read_boot_bundle(disk, commit.image.format)
    kernel = bundle.version if bundle else ""
    if bundle:
        bundle.close()
    commit.tick()
    add_to_history(disk, commit.image.format, commit.entry(kernel))


def _dress(fd: int, like: Path) -> None:
    """Give the new file owner, mode and, as far as may be, extended attributes (access lists) of the image."""
    was = like.stat()
    os.fchown(fd, was.st_uid, was.st_gid)
    os.fchmod(fd, was.st_mode & 0o7777)
    with suppress(OSError):
        for name in os.listxattr(like):
            with suppress(OSError):
                os.setxattr(fd, name, os.getxattr(like, name))


def _replace(aside: Aside, path: Path, commit: Commit) -> None:
    """Give the new file the image's name, in one step that survives a power cut."""
    with open_folder(path.parent) as folder:
        aside.give_name(folder)
        commit.say(f"$ {shlex.join(['mv', commit.shown(aside.path), commit.shown(path)])}")
        os.rename(aside.path, path)
        with suppress(OSError):  # some file systems can't; the image is the new one all the same
            os.fsync(folder)
