# SPDX-License-Identifier: Apache-2.0
"""Read the kernel of a disk out of its boot bundle, as an ordinary user, without mounting, leaving no file behind."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chslurm.bundle import HEAD_BYTES, Slot, parse_payload, parse_slots
from chslurm.errors import ChslurmError
from chslurm.host.process import run

_READ_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class BootBundle:
    """An open boot bundle. QEMU takes `/proc/self/fd/N` of the two descriptors as its -kernel and -initrd."""

    kernel_fd: int
    initrd_fd: int
    command_line: str
    version: str  # of the kernel
    generation: int

    def close(self) -> None:
        """Close both descriptors; a QEMU that was started with them keeps its own."""
        os.close(self.kernel_fd)
        os.close(self.initrd_fd)

    def __enter__(self) -> BootBundle:
        """Return the bundle itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def read_boot_bundle(disk: Path, disk_format: str) -> BootBundle | None:
    """Return the newest boot bundle of a disk that is whole, or None when the disk has none.

    `disk` is what the guest will see, so an overlay with all that is below it; a running guest may use it meanwhile.
    Two calls of qemu-img, 0.15 s. Raises ChslurmError when the disk can't be read, or has bundles that are all damaged.
    """
    slots = parse_slots(bytes(read_head(disk, disk_format)))
    problem: ChslurmError | None = None
    for slot in slots:
        try:
            return _read_slot(disk, disk_format, slot)
        except ChslurmError as error:
            problem = problem or error
    if problem:
        raise ChslurmError(f"can't boot {disk}: {problem.message}", hint=problem.hint) from problem
    return None


def _read_slot(disk: Path, disk_format: str, slot: Slot) -> BootBundle:
    payload = read_region(disk, disk_format, slot.offset_bytes, slot.length_bytes)
    if len(payload) < slot.length_bytes or hashlib.sha256(payload).hexdigest() != slot.sha256:
        raise ChslurmError("its boot bundle is damaged", hint="build the image again, or take another")
    parts = parse_payload(payload)
    kernel_fd = _copy("kernel", payload[parts.kernel])
    try:
        initrd_fd = _copy("initrd", payload[parts.initrd])
    except BaseException:
        os.close(kernel_fd)
        raise
    return BootBundle(kernel_fd, initrd_fd, parts.command_line, slot.version, slot.generation)


def read_head(disk: Path, disk_format: str) -> memoryview:
    """Read the first HEAD_BYTES of a disk as a guest sees it; fewer when it is smaller."""
    source = f"driver={disk_format},file.driver=file,{_file_name('file.filename', disk)}"
    block = 4096
    options = [f"bs={block}", f"count={HEAD_BYTES // block}", f"if={source}"]
    with _memory_file("head") as descriptor:
        _qemu_img("dd", *options, f"of=/proc/self/fd/{descriptor}", descriptor=descriptor)
        return _mapped(descriptor, HEAD_BYTES)


def read_region(disk: Path, disk_format: str, offset_bytes: int, length_bytes: int) -> memoryview:
    """Read a part of a disk as a guest sees it. Raises ChslurmError when it can't be read, or has no such part."""
    source = make_region(disk, disk_format, offset_bytes, length_bytes)
    with _memory_file("region") as descriptor:
        _qemu_img("convert", "-W", "-m", "8", source, f"/proc/self/fd/{descriptor}", descriptor=descriptor)
        return _mapped(descriptor, length_bytes)


def make_region(disk: Path, disk_format: str, offset_bytes: int, length_bytes: int) -> str:
    """Return how a part of a disk is named to qemu-img, which wants a whole number of sectors."""
    where = f"driver=raw,offset={offset_bytes},size={-(-length_bytes // 512) * 512}"
    return f"{where},file.driver={disk_format},file.file.driver=file,{_file_name('file.file.filename', disk)}"


def _qemu_img(verb: str, *arguments: str, descriptor: int) -> None:
    """Run qemu-img on a disk that may be in use, from a stated source into the raw file `descriptor`."""
    argv = ["qemu-img", verb, "--image-opts", "--force-share", "-O", "raw", *arguments]
    run(argv, timeout_s=_READ_TIMEOUT_S, pass_fds=[descriptor])


def _file_name(key: str, disk: Path) -> str:
    """Return an option that holds nothing but a file name, whatever characters that has."""
    return f"{key}={disk.absolute()}".replace(",", ",,")


@contextmanager
def _memory_file(name: str) -> Iterator[int]:
    descriptor = os.memfd_create(f"chslurm-{name}", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _mapped(descriptor: int, most: int) -> memoryview:
    """Return the first `most` bytes of a file, fewer when it is shorter; they stay when the descriptor is closed."""
    size = min(os.fstat(descriptor).st_size, most)
    return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b"")


def _copy(name: str, data: memoryview) -> int:
    """Return a new memory file with these bytes, at its start."""
    descriptor = os.memfd_create(f"chslurm-{name}", os.MFD_CLOEXEC)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
