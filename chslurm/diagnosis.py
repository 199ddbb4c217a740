# SPDX-License-Identifier: Apache-2.0
"""The rows of a check-up, each decided from what was found by trying, and from what a launch asks for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chslurm import remedies
from chslurm.checkup import Needs, Row, Topic, Verdict
from chslurm.kinds import Accelerator, Mode
from chslurm.sizes import LEAST_RAM_MIB, find_ram_share
from chslurm.units import render_size

RAN = 85
"""QEMU's exit status when the guest has truly run: it wrote (85 - 1) / 2 to a port."""

_LITTLE_SPACE_MIB, _NO_SPACE_MIB = 2048, 64
_MOST_PATH_BYTES = 4095
_LONGEST_BELOW = len("/charlie.20260102_030405/run/keys.0123456789abcdef/") + 40
_MOST_BACKING_BYTES = 1023
"""Of the name of a backing file, in the header of a qcow2 overlay."""

_CLOCK_S = 5.0
"""As far apart as the launcher takes clocks to be."""

_FEW_FILES, _FEW_PROCESSES = 1024, 256


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a trial: what was found, or the words of who refused."""

    found: str = ""
    trouble: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """What QEMU did with a guest of one instruction."""

    program: str
    version: str
    status: int  # of QEMU, with all that a launch gives a guest but a network card
    words: str  # its last ones
    bare_status: int  # without passthrough
    bare_words: str
    virtiofsd: str = ""  # its path


@dataclass(frozen=True, slots=True)
class KvmFacts:
    """Whether KVM runs a guest."""

    obstacle: str | None
    user: str
    virtual: bool  # this is a virtual machine itself
    status: int | None = RAN  # of QEMU; None: there is none
    words: str = ""


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Memory in MiB. `limit_mib` is the least of the control groups above us."""

    total_mib: int
    available_mib: int
    limit_mib: int | None
    killed: int  # processes that the kernel has killed in our control group for want of memory


@dataclass(frozen=True, slots=True)
class SpaceFacts:
    """A folder, and what can be written there."""

    path: str
    file_system: str
    free_mib: int
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """Limits of a process; None is unlimited. `memory_mib` is that of its address space."""

    files: int | None
    processes: int | None
    file_mib: int | None
    memory_mib: int | None


def judge_user(uid: int, name: str) -> Row:
    """A launch refuses root."""
    if uid == 0:
        remedy = "look as one who starts clusters: sudo -u USER chslurm doctor"
        return Row(Topic.USER, "root, who can't start clusters", Verdict.FAILED, remedy)
    return Row(Topic.USER, f"{name} ({uid})")


def judge_allowed(tried: Tried, file: str) -> Row:
    """What a launch refuses by the site's limits, and the file that has them."""
    if tried.trouble:
        return Row(Topic.ALLOWED, tried.trouble, Verdict.FAILED, tried.hint)
    return Row(Topic.ALLOWED, f"kept ({file})" if file else "none")


def judge_programs(missing: Sequence[str], family: remedies.Family) -> Row:
    """Programs that every host starts."""
    if missing:
        found = f"not found: {', '.join(missing)}"
        return Row(Topic.PROGRAMS, found, Verdict.FAILED, remedies.install(missing, family))
    return Row(Topic.PROGRAMS, ", ".join(remedies.PROGRAMS))


def judge_no_qemu(trouble: Tried, family: remedies.Family) -> Iterator[Row]:
    """There is no QEMU that could be tried."""
    remedy = remedies.install_qemu(family) if "find QEMU" in trouble.trouble else trouble.hint
    yield Row(Topic.QEMU, trouble.trouble, Verdict.FAILED, remedy)
    yield Row(Topic.PASSTHROUGH, "takes a QEMU", Verdict.NOT_TRIED)


def judge_qemu(facts: QemuFacts, family: remedies.Family) -> Iterator[Row]:
    """QEMU runs a guest with all devices of a launch; when it does not, perhaps without passthrough."""
    name = f"{facts.version} ({facts.program})"
    if RAN not in (facts.status, facts.bare_status):
        again = f"install it whole: {remedies.install_qemu(family)}"
        yield Row(Topic.QEMU, f"{name} runs no guest: {facts.bare_words}", Verdict.FAILED, again)
        yield Row(Topic.PASSTHROUGH, "takes a QEMU that runs", Verdict.NOT_TRIED)
        return
    yield Row(Topic.QEMU, f"{name} runs a guest, sandboxed")
    if facts.status == RAN:
        beside = f"; {facts.virtiofsd} is there, and not used" if facts.virtiofsd else ""
        yield Row(Topic.PASSTHROUGH, f"9p{beside}")
        return
    remedy = f"put a qemu-system-x86_64 with 9p first on PATH, or: {remedies.install_qemu(family)}"
    yield Row(Topic.PASSTHROUGH, f"no 9p: {facts.words}", Verdict.FAILED, remedy)


def judge_kvm(facts: KvmFacts, needs: Needs) -> Row:
    """KVM is not needed unless it is asked for; but one that opens and does not run is taken, and fails."""
    if needs.accelerator is Accelerator.TCG:
        return Row(Topic.KVM, "not asked for (--accel tcg)", Verdict.NOT_TRIED)
    if facts.obstacle is None and facts.status is None:
        return Row(Topic.KVM, "takes a QEMU", Verdict.NOT_TRIED)
    if facts.obstacle is None and facts.status == RAN:
        return Row(Topic.KVM, "runs a guest")
    if facts.obstacle is None:
        remedy = "--accel tcg does without; sudo dmesg | grep -i kvm tells more"
        return Row(Topic.KVM, f"makes a machine, but runs no guest: {facts.words}", Verdict.FAILED, remedy)
    needed = needs.accelerator is Accelerator.KVM
    found = facts.obstacle if needed else f"{facts.obstacle}: guests are emulated, which is slow"
    remedy = remedies.open_kvm(facts.obstacle, facts.user, facts.virtual)
    return Row(Topic.KVM, found, Verdict.FAILED if needed else Verdict.WARNING, remedy)


def judge_vhost(works: bool) -> Row:
    """Whether the kernel passes packets to guests by itself; it is only quicker."""
    if works:
        return Row(Topic.VHOST, "the kernel passes packets to guests")
    remedy = "sudo modprobe vhost_net && sudo chmod 666 /dev/vhost-net"
    return Row(Topic.VHOST, "not for us: QEMU passes packets, which is slower", Verdict.WARNING, remedy)


def judge_image(tried: Tried, path: str) -> Row:
    """The launcher's own look at the image."""
    if not tried.trouble:
        return Row(Topic.IMAGE, tried.found)
    remedy = tried.hint
    if tried.trouble.endswith("Permission denied"):
        remedy = f"its owner lets you read it: chmod a+r {shlex.quote(path)}, and folders above: chmod a+x"
    elif tried.trouble.endswith("No such file or directory"):
        remedy = f"ls -l {shlex.quote(path)}; all nodes have to see it"
    return Row(Topic.IMAGE, tried.trouble, Verdict.FAILED, remedy)


def judge_memory(facts: MemoryFacts, needs: Needs) -> Row:
    """Room for the guests that a launch makes, in the least limit above us."""
    usable_mib = min(facts.available_mib, facts.total_mib if facts.limit_mib is None else facts.limit_mib)
    each_mib = max(find_ram_share(usable_mib, needs.guest_ct), 0)
    limit = "" if facts.limit_mib is None else f", limit of our control group {render_size(facts.limit_mib)}"
    guests = "1 guest" if needs.guest_ct == 1 else f"{needs.guest_ct} guests"
    cluster = needs.mode is Mode.CLUSTER
    found = f"{render_size(facts.available_mib)} of {render_size(facts.total_mib)} available{limit}"
    if cluster and each_mib >= LEAST_RAM_MIB:  # SLURM shares it out; what is free now differs a little on all nodes
        found = f"{render_size(facts.total_mib)}{limit}; the job has what SLURM gave it"
    else:
        found += f": {guests} may have {render_size(each_mib)}{' each' if needs.guest_ct > 1 else ''}"
    if facts.killed:
        found += f"; the kernel has killed {facts.killed} of our processes for want of it"
        return Row(Topic.MEMORY, found, Verdict.WARNING, "fewer guests (-n), " + _more_memory(cluster))
    if each_mib < LEAST_RAM_MIB:
        return Row(Topic.MEMORY, found, Verdict.FAILED, "fewer guests (-n), " + _more_memory(cluster))
    if each_mib < needs.ram_mib and not cluster:
        return Row(Topic.MEMORY, found, Verdict.WARNING, f"chrun --ram {each_mib // 2 * 2}M, or fewer guests (-n)")
    return Row(Topic.MEMORY, found)


def _more_memory(cluster: bool) -> str:
    return "or ask SLURM for more: --mem" if cluster else "less RAM (--ram), or a larger limit: systemctl status $$"


def judge_space(topic: Topic, facts: SpaceFacts, option: str) -> Row:
    """A folder that is written to; `option` names another."""
    found = f"{facts.path} ({facts.file_system}): {_render_roughly(facts.free_mib)} free"
    other = f"free some (du -xsh {facts.path})" + (f", or name another folder: {option}" if option else "")
    if facts.trouble.startswith("No such"):
        other = f"mkdir -p {facts.path}" + (f" where guests run, or name another folder: {option}" if option else "")
    elif facts.trouble.startswith(("Permission", "Read-only")):
        other = f"ls -ld {facts.path}" + (f"; or name another folder: {option}" if option else "")
    if facts.trouble:
        return Row(topic, f"{facts.path}: {facts.trouble}", Verdict.FAILED if option else Verdict.WARNING, other)
    if facts.free_mib < _NO_SPACE_MIB:
        return Row(topic, found, Verdict.FAILED if option else Verdict.WARNING, other)
    if facts.free_mib < _LITTLE_SPACE_MIB and option:
        return Row(topic, f"{found}; guests may write more", Verdict.WARNING, other)
    return Row(topic, found)


def _render_roughly(size_mib: int) -> str:
    """So that nodes with nearly the same say the same."""
    return render_size(size_mib >> 10 << 10 if size_mib > _LITTLE_SPACE_MIB else size_mib)


def judge_paths(job_base: str, image: str) -> Row:
    """Names have room. Sockets have none, so that their 108 bytes don't matter."""
    longest = len(job_base.encode(errors="surrogateescape")) + _LONGEST_BELOW
    image_bytes = len(image.encode(errors="surrogateescape"))
    if longest > _MOST_PATH_BYTES:
        found = f"the longest name in a job directory has {longest} bytes, {_MOST_PATH_BYTES} are possible"
        return Row(Topic.PATHS, found, Verdict.FAILED, "name a folder with a shorter path: --jobbase")
    if image_bytes > _MOST_BACKING_BYTES:
        found = f"the image's has {image_bytes} bytes, {_MOST_BACKING_BYTES} are possible below an overlay"
        return Row(Topic.PATHS, found, Verdict.FAILED, "move the image to a folder with a shorter path: mv")
    return Row(Topic.PATHS, f"up to {longest} bytes, {_MOST_PATH_BYTES} are possible; sockets have none")


def judge_limits(facts: LimitFacts, needs: Needs) -> Row:
    """Limits of a process that are in the way of QEMU."""
    found = ", ".join(
        f"{name} {'unlimited' if value is None else value}"
        for name, value in (
            ("files", facts.files),
            ("processes", facts.processes),
            ("file size", None if facts.file_mib is None else render_size(facts.file_mib)),
            ("address space", None if facts.memory_mib is None else render_size(facts.memory_mib)),
        )
    )
    if facts.memory_mib is not None and facts.memory_mib < needs.ram_mib + 2048:
        return Row(Topic.LIMITS, found, Verdict.FAILED, "ulimit -v unlimited")
    if facts.file_mib is not None and facts.file_mib < _LITTLE_SPACE_MIB:
        return Row(Topic.LIMITS, found, Verdict.FAILED, "ulimit -f unlimited")
    if facts.files is not None and facts.files < _FEW_FILES:
        return Row(Topic.LIMITS, found, Verdict.WARNING, f"ulimit -n {_FEW_FILES}")
    if facts.processes is not None and facts.processes < _FEW_PROCESSES:
        return Row(Topic.LIMITS, found, Verdict.WARNING, f"ulimit -u {_FEW_PROCESSES}")
    return Row(Topic.LIMITS, found)


def judge_clock(synchronised: bool, files_s: float | None) -> Row:
    """This host's clock against that of the file system, whose times tell who lives; both within a few seconds."""
    if files_s is not None and abs(files_s) > _CLOCK_S:
        found = f"{abs(files_s):.1f} s {'behind' if files_s > 0 else 'before'} that of the job directories' file system"
        return Row(Topic.CLOCK, found, Verdict.WARNING, "sudo chronyc makestep, or: sudo timedatectl set-ntp true")
    kept = "kept by NTP" if synchronised else "not kept by NTP, as far as the kernel knows"
    same = "" if files_s is None else "; the same as of the job directories' file system"
    return Row(Topic.CLOCK, f"{kept}{same}")


def judge_clocks(ahead_s: Mapping[str, float]) -> Row:
    """The clocks of nodes, each so far ahead of ours; the way of the answer, at most a second, is in it."""
    least, most = (pick(ahead_s, key=lambda node: ahead_s[node]) for pick in (min, max))
    apart_s = ahead_s[most] - ahead_s[least]
    if apart_s > _CLOCK_S:
        found = f"{most} is {apart_s:.1f} s ahead of {least}"
        return Row(Topic.CLOCK, found, Verdict.WARNING, "sudo chronyc makestep, on both")
    return Row(Topic.CLOCK, f"{len(ahead_s)} nodes within {max(apart_s, 0.1):.1f} s")
