# SPDX-License-Identifier: Apache-2.0
"""What a cluster leaves behind that can be committed: a small image, and a job directory with an overlay over it."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from chslurm.history import HISTORY_AT, HISTORY_BYTES
from chslurm.host.place import read_image
from chslurm.jobdir import JobDir
from chslurm.phases import Cause
from chslurm.plan import Plan, plan_to_json
from chslurm.report import GuestReport, Summary, parse_summary, summary_to_json

MIB = 1 << 20
BOOT_AT = MIB
BOOT_MIB = 257
"""Where the room for a boot partition ends; it is sparse."""


@dataclass(frozen=True)
class Kept:
    """An image and a job directory in one folder."""

    folder: Path
    image: Path
    job_dir: JobDir
    plan: Plan

    @property
    def overlay(self) -> Path:
        return Path(self.job_dir.overlay(0))

    def summary(self) -> Summary:
        """What the job directory says of the cluster's end."""
        found = parse_summary(Path(self.job_dir.summary).read_bytes(), self.plan)
        assert found is not None
        return found

    def end(self, **fields: object) -> None:
        """Write the summary of a cluster whose guest 0 shut itself down, or ended otherwise."""
        report = replace(GuestReport(0, "here", "gone", None, True, "shut down"), **fields)  # type: ignore[arg-type]
        ended = Summary(self.plan.cluster_id, Cause.SHUTDOWN, 0, "", 1.0, (report,), ())
        Path(self.job_dir.summary).write_bytes(summary_to_json(ended))


def make_kept(
    folder: Path, plan_of: Callable[..., Plan], *, image_format: str = "qcow2", boot: bool = False, mib: int = 8
) -> Kept:
    """Make them. Half of what the guest wrote, `mib` in all, lies over what the image holds."""
    image, start = folder / "image.img", BOOT_MIB if boot else 4
    run("qemu-img", "create", "-q", "-f", image_format, image, f"{start + 2 * mib}M")
    write(image, image_format, 0, make_gpt() if boot else bytes(510) + b"\x55\xaa")
    if boot:
        header, payload = make_slot()
        write(image, image_format, BOOT_AT, header)
        write(image, image_format, BOOT_AT + MIB, payload)
    run("qemu-io", "-f", image_format, "-c", f"write -q -P 17 {start}M {mib}M", image)
    job_dir = JobDir(folder / "charlie")
    for path in (job_dir.root, job_dir.run, job_dir.out, job_dir.meta):
        Path(path).mkdir(mode=0o700)
    plan = plan_of(1, interactive=True)
    plan = replace(plan, job_dir=str(job_dir.root), image=read_image(image), commit_guest=0)
    Path(job_dir.marker).write_text(f"{plan.cluster_id}\n")
    Path(job_dir.plan).write_bytes(plan_to_json(plan))
    kept = Kept(folder, image, job_dir, plan)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", image_format, kept.overlay)
    run("qemu-io", "-f", "qcow2", "-c", f"write -q -P 34 {start + mib // 2}M {mib}M", kept.overlay)
    kept.end()
    return kept


def make_gpt() -> bytes:
    """A partition table as `chslurm image build` makes it: `boot` at 1 MiB, partition 2, and `root` behind it."""
    head = bytearray(MIB)
    for number, (name, first, last) in enumerate((("root", BOOT_MIB, BOOT_MIB + 8), ("boot", 1, BOOT_MIB))):
        entry = 1024 + 128 * number
        struct.pack_into("<QQ", head, entry + 32, first * 2048, last * 2048 - 1)
        head[entry + 56 : entry + 56 + 2 * len(name)] = name.encode("utf-16-le")
    struct.pack_into("<8sIII", head, 512, b"EFI PART", 0x10000, 92, 0)
    struct.pack_into("<QII", head, 512 + 72, 2, 128, 128)
    struct.pack_into("<I", head, 512 + 16, zlib.crc32(head[512 : 512 + 92]))
    head[510:512] = b"\x55\xaa"
    return bytes(head)


def make_slot() -> tuple[bytes, bytes]:
    """Header and payload of a boot bundle, as `boot-bundle` writes them; whole, though nothing boots from it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("cmdline", b"rw\n"), ("initrd", b"initrd"), ("vmlinux", b"\x7fELF")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    payload = file.getvalue()
    digest = hashlib.sha256(payload).hexdigest()
    return f"CHSLURM-BOOT 1 1 {len(payload)} {digest} 6.1-fake\n".encode().ljust(4096, b"\0"), payload


def write(disk: Path, disk_format: str, offset: int, data: bytes) -> None:
    """Write into a disk as a guest would."""
    source = disk.with_name("data")
    source.write_bytes(data)
    run("qemu-io", "-f", disk_format, "-c", f"write -q -s {source} {offset} {len(data)}", disk)
    source.unlink()


def digest(disk: Path, disk_format: str) -> str:
    """A digest of what a guest would read from a disk, but for the history. Holes are not read, zeros not counted."""
    raw, found, block = disk.with_name("raw"), hashlib.sha256(), 64 << 10
    run("qemu-img", "convert", "-U", "-f", disk_format, "-O", "raw", disk, raw)
    with raw.open("rb") as file:
        size, at = raw.stat().st_size, 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // block * block
            except OSError:  # nothing but a hole is left
                break
            data = os.pread(file.fileno(), block, at)
            if data.strip(b"\0") and not HISTORY_AT <= at < HISTORY_AT + HISTORY_BYTES:
                found.update(at.to_bytes(8, "little") + data)
            at += block
    raw.unlink()
    return f"{size} {found.hexdigest()}"


def run(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
