# SPDX-License-Identifier: Apache-2.0
"""What a launch needs of this machine, tried for real: each returns rows, and is called in a process of its own."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from chslurm import remedies
from chslurm.checkup import Needs, Row, Topic
from chslurm.diagnosis import (
    RAN,
    KvmFacts,
    LimitFacts,
    MemoryFacts,
    QemuFacts,
    SpaceFacts,
    Tried,
    judge_allowed,
    judge_clock,
    judge_image,
    judge_kvm,
    judge_limits,
    judge_memory,
    judge_no_qemu,
    judge_paths,
    judge_programs,
    judge_qemu,
    judge_space,
    judge_user,
    judge_vhost,
)
from chslurm.errors import ChslurmError, ProcessError, UsageError
from chslurm.host import nettrials, workstation
from chslurm.host.accel import find_kvm_obstacle, find_qemu, has_vhost, read_processor_flags
from chslurm.host.bundle import read_boot_bundle
from chslurm.host.files import find_existing, read_clock, read_file_system
from chslurm.host.place import find_node_dir, read_image
from chslurm.host.process import run
from chslurm.host.sitelimits import check_here, check_images
from chslurm.host.trialguest import try_guest
from chslurm.limits import NO_LIMITS, Limits, reserve
from chslurm.netdiagnosis import judge_network, judge_outside, judge_site, judge_vxlan
from chslurm.plan import Accelerator, Mode
from chslurm.planner import is_network_file_system

_MIB = 1 << 20
_TRIAL_BYTES = _MIB
_TIME_ERROR = 5
"""What adjtimex(2) returns while nobody keeps the clock."""

_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")


@dataclass(frozen=True, slots=True)
class Patient:
    """A host, and what a launch there would ask of it."""

    needs: Needs
    image: PurePath | None
    job_base: Path  # where job directories are, or the one that is there
    tmp_dir: Path | None = None  # None: as the launch decides
    job_id: str = ""
    other: str = ""  # another host of the launch
    limits: Limits = NO_LIMITS
    refusal: Tried | None = None  # settings go beyond them
    scratch: Path = Path(os.devnull)  # a folder for logs that is gone when all is tried


def try_user(_: Patient) -> Iterator[Row]:
    """Who we are."""
    yield judge_user(os.getuid(), _read_name())


def try_allowed(patient: Patient) -> Iterator[Row]:
    """What a launch here refuses by the site's limits."""
    limits, mode = patient.limits, patient.needs.mode
    tried = patient.refusal or Tried()
    if not tried.trouble:
        try:
            check_here(limits, mode)
            if mode is Mode.WORKSTATION:
                reserve(workstation.read_allocation(), limits)
            check_images(limits, _find_layers(patient.image))
        except UsageError as error:
            tried = Tried(trouble=error.message, hint=error.hint)
    yield judge_allowed(tried, limits.file)


def _find_layers(image: PurePath | None) -> list[PurePath]:
    if image is None:
        return []
    with suppress(ChslurmError):  # told by another row
        return [PurePath(layer.path) for layer in read_image(image).layers]
    return [image]


def try_programs(_: Patient) -> Iterator[Row]:
    """What is started besides QEMU, looked for as `process.run` does."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    missing = [name for name in remedies.PROGRAMS if shutil.which(name, path=path) is None]
    yield judge_programs(missing, find_family())


def try_qemu(_: Patient) -> Iterator[Row]:
    """Run a guest, emulated; when that fails, one without passthrough."""
    try:
        program = find_qemu()
    except ChslurmError as error:
        yield from judge_no_qemu(Tried(trouble=error.message, hint=error.hint), find_family())
        return
    status, words = _run_guest(program, Accelerator.TCG)
    bare = (status, words) if status == RAN else _run_guest(program, Accelerator.TCG, passthrough=False)
    virtiofsd = shutil.which("virtiofsd") or next(filter(os.path.isfile, _VIRTIOFSD), "")
    yield from judge_qemu(QemuFacts(program, _read_version(program), status, words, *bare, virtiofsd), find_family())


def try_kvm(patient: Patient) -> Iterator[Row]:
    """Run a guest with KVM, if the launcher would."""
    obstacle, status, words = find_kvm_obstacle(), None, ""
    if obstacle is None:
        with suppress(ChslurmError):  # told by another row, as is a QEMU without passthrough
            status, words = _run_guest(find_qemu(), Accelerator.KVM, passthrough=False)
    virtual = "hypervisor" in read_processor_flags()
    yield judge_kvm(KvmFacts(obstacle, _read_name(), virtual, status, words), patient.needs)


def try_vhost(_: Patient) -> Iterator[Row]:
    """Whether vhost-net takes us."""
    yield judge_vhost(has_vhost())


def try_image(patient: Patient) -> Iterator[Row]:
    """Look at the image as the launcher does, and at the kernel in it as a host does."""
    if patient.image is None:
        return
    try:
        image = read_image(patient.image)
        bundle = read_boot_bundle(Path(image.path), image.format)
        boots = f"kernel {bundle.version} from its bundle" if bundle else "its own boot loader (no boot bundle)"
        layers = f", {len(image.layers)} layers" if len(image.layers) > 1 else ""
        yield judge_image(Tried(f"{image.path} ({image.format}{layers}): {boots}"), image.path)
    except ChslurmError as error:
        yield judge_image(Tried(trouble=error.message, hint=error.hint), str(patient.image))


def try_network(patient: Patient) -> Iterator[Row]:
    """Namespaces, TAP, filters, WireGuard."""
    yield from judge_network(nettrials.try_network(), patient.needs)


def try_outside(patient: Patient) -> Iterator[Row]:
    """How guests of a workstation get out."""
    yield judge_outside(nettrials.try_outside(_make_logs(patient, "outside")), patient.needs, find_family())


def try_vxlan(patient: Patient) -> Iterator[Row]:
    """How hosts are joined where WireGuard is not."""
    facts = nettrials.try_vxlan(_make_logs(patient, "vxlan"), patient.other)
    yield judge_vxlan(facts, patient.needs, find_family())


def _make_logs(patient: Patient, name: str) -> Path:
    folder = patient.scratch / name
    folder.mkdir()
    return folder


def try_site(patient: Patient) -> Iterator[Row]:
    """What root has made for us."""
    yield judge_site(nettrials.find_site(patient.needs.mode, patient.job_id), patient.needs)


def try_memory(patient: Patient) -> Iterator[Row]:
    """Memory of the machine and of the control groups above us."""
    total_mib, available_mib = workstation.read_memory()
    limit_mib = min((limit for limit in workstation.read_memory_limits() if limit < total_mib), default=None)
    yield judge_memory(MemoryFacts(total_mib, available_mib, limit_mib, workstation.count_killed()), patient.needs)


def try_job_space(patient: Patient) -> Iterator[Row]:
    """Where job directories are."""
    yield judge_space(Topic.JOB_SPACE, _try_folder(find_existing(patient.job_base)), "--jobbase")


def try_tmp_space(patient: Patient) -> Iterator[Row]:
    """Where temporary disks, and overlays beside a shared job directory, are: as a plan has it."""
    folder = patient.tmp_dir
    if folder is None and is_network_file_system(read_file_system(patient.job_base)):
        folder = Path(find_node_dir(os.environ))
    yield judge_space(Topic.TMP_SPACE, _try_folder(folder or find_existing(patient.job_base)), "--tmp-dir")


def try_shm_space(_: Patient) -> Iterator[Row]:
    """Nothing of a cluster is there."""
    yield judge_space(Topic.SHM_SPACE, _try_folder(Path("/dev/shm")), "")


def try_paths(patient: Patient) -> Iterator[Row]:
    """How long names are."""
    image = "" if patient.image is None else os.path.realpath(patient.image)
    yield judge_paths(str(patient.job_base), image)


def try_limits(patient: Patient) -> Iterator[Row]:
    """What getrlimit(2) says: of what counts now."""

    def limit(which: int, unit: int = 1) -> int | None:
        soft, _ = resource.getrlimit(which)
        return None if soft == resource.RLIM_INFINITY else soft // unit

    facts = LimitFacts(
        limit(resource.RLIMIT_NOFILE),
        limit(resource.RLIMIT_NPROC),
        limit(resource.RLIMIT_FSIZE, _MIB),
        limit(resource.RLIMIT_AS, _MIB),
    )
    yield judge_limits(facts, patient.needs)


def try_clock(patient: Patient) -> Iterator[Row]:
    """Whether somebody keeps our clock, and how far that of the file system is from it."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # modes 0: only look
    files_s = None
    with suppress(OSError):
        files_s = read_clock(find_existing(patient.job_base)) - time.time()
    yield judge_clock(state not in (_TIME_ERROR, -1), files_s)


def _try_folder(folder: Path) -> SpaceFacts:
    """Really write: quotas and read-only file systems are seen in no number."""
    kind, free_mib, trouble = "", 0, ""
    try:
        kind = read_file_system(folder)
        found = os.statvfs(folder)
        free_mib = found.f_bavail * found.f_frsize // _MIB
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            written = file.write(bytes(_TRIAL_BYTES))
            os.fsync(file.fileno())
        if written < _TRIAL_BYTES:
            trouble = "No space left on device"
    except OSError as error:
        trouble = str(error.strerror or error)
    return SpaceFacts(str(folder), kind, free_mib, trouble)


def _run_guest(program: str, accelerator: Accelerator, *, passthrough: bool = True) -> tuple[int, str]:
    try:
        done = try_guest(program, accelerator, passthrough=passthrough)
    except ProcessError as error:
        return -1, error.message
    return done.status, done.stderr


def _read_version(program: str) -> str:
    """`QEMU 7.2.22`, from the first line of --version."""
    with suppress(ProcessError):
        words = run([program, "--version"], timeout_s=2.0, check=False).stdout.split()
        if words[:3] == ["QEMU", "emulator", "version"] and len(words) > 3:
            return f"QEMU {words[3]}"
    return "QEMU"


def _read_name() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return str(os.getuid())


def find_family() -> remedies.Family:
    """Return whose packages this host has."""
    with suppress(OSError):
        return remedies.find_family(Path("/etc/os-release").read_text(errors="replace"))
    return remedies.Family.OTHER
