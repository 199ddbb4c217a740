# SPDX-License-Identifier: Apache-2.0
"""Hosts broken on purpose: the doctor's row for each, and the last lines of a launch there."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokenhost import BrokenHost

from chslurm.host.trials import find_family
from chslurm.remedies import install

NODE = socket.gethostname()
NO_9P = "-device virtio-9p-pci,fsdev=meta,mount_tag=meta: 'virtio-9p-pci' is not a valid device model name"
WITHOUT_9P = f"""\
case "$*" in
*virtio-9p-pci*) echo "qemu-system-x86_64: {NO_9P}" >&2; exit 1 ;;
*) exec /usr/bin/qemu-system-x86_64 "$@" ;;
esac"""
WITH_VMX = "sed s/hypervisor/vmx/ /proc/cpuinfo >/dev/net/cpuinfo; mount --bind /dev/net/cpuinfo /proc/cpuinfo"


@pytest.fixture
def host() -> Iterator[BrokenHost]:
    host = BrokenHost()
    yield host
    host.end()


def check_launch(host: BrokenHost, *words: str, told: str, rows: list[str], ended: str = "machinery") -> None:
    """The launch fails with these words, ends with these rows, and with the status that it has without them."""
    status, lines = host.launch(*words)
    assert status == 70, lines
    ended_at = next(number for number, line in enumerate(lines) if line.startswith("cluster ended after "))
    assert re.fullmatch(rf"cluster ended after [\d.]+ s: {ended}, exit status 70", lines[ended_at])
    assert lines[ended_at - 1] == told, lines
    assert lines[ended_at + 1 :] == [f"doctor: {row}" for row in rows], lines


def test_a_host_that_is_well(host: BrokenHost) -> None:
    status, rows = host.doctor("image.qcow2")
    assert status == 0
    assert rows["QEMU"][0] == rows["passthrough"][0] == rows["packet filters"][0] == "ok"
    assert re.match(r"QEMU [\d.]+ \(/usr/bin/\S+\) runs a guest, sandboxed", rows["QEMU"][1])
    assert rows["image"] == ("ok", "~/image.qcow2 (qcow2): its own boot loader (no boot bundle)", "")
    assert rows["SLURM"][1].endswith("no srun here: clusters run on this machine alone")
    assert [topic for topic, row in rows.items() if row[0] == "failed"] == []


def test_a_host_without_a_default_route(host: BrokenHost) -> None:
    """As nodes of many clusters: others are in the same subnet."""
    host.sh("ip link add eth0 type veth peer name far0; ip address add 10.9.0.1/24 dev eth0")
    host.sh("ip link set eth0 up; ip link set far0 up")
    status, rows = host.doctor()
    assert (status, rows["tunnel: VXLAN"][0]) == (0, "ok"), rows
    assert rows["tunnel: VXLAN"][1].startswith("opens, carried by pasta over eth0")


def test_no_tun(host: BrokenHost) -> None:
    host.sh("chmod 600 /dev/net/tun")
    found, remedy = "can't make a TAP device with /dev/net/tun: Permission denied", "sudo chmod 666 /dev/net/tun"
    status, rows = host.doctor()
    assert (status, rows["TAP devices"]) == (1, ("failed", found, remedy))
    assert rows["pasta"] == ("not tried", "takes a user namespace, a TAP and filters", "")
    told = f"node {NODE}: {found}; the site must load `tun` and give it mode 0666, as udev does"
    check_launch(host, told=told, rows=[f"TAP devices: {found}; {remedy}"])


def test_no_user_namespaces(host: BrokenHost) -> None:
    host.namespaces = False
    found = "can't make a user and network namespace: No space left on device (ENOSPC)"
    remedy = "sudo sysctl -w user.max_user_namespaces=15000"
    status, rows = host.doctor()
    assert (status, rows["user namespaces"]) == (1, ("failed", found, remedy))
    assert rows["TAP devices"] == ("not tried", "takes a user namespace", "")
    status, lines = host.launch()
    assert (status, lines[-1]) == (70, f"doctor: user namespaces: {found}; {remedy}")
    assert lines[-3].startswith(f"node {NODE}: {found}; unprivileged user namespaces must be allowed")


def test_an_unreadable_image(host: BrokenHost) -> None:
    os.chown(host.image, 0, 0)
    host.image.chmod(0o600)
    remedy = "its owner lets you read it: chmod a+r ~/image.qcow2, and folders above: chmod a+x"
    status, rows = host.doctor("image.qcow2")
    assert (status, rows["image"]) == (1, ("failed", "image '~/image.qcow2': Permission denied", remedy))
    told = "image '~/image.qcow2': Permission denied; ask its owner for read permission"
    assert host.launch() == (64, [told])


def test_qemu_without_9p(host: BrokenHost) -> None:
    host.write_program("qemu-system-x86_64", WITHOUT_9P)
    found = f"no 9p: {NO_9P}"
    packages = install(["qemu-system-x86_64"], find_family())
    remedy = f"put a qemu-system-x86_64 with 9p first on PATH, or: {packages}"
    status, rows = host.doctor()
    assert (status, rows["QEMU"][0], rows["passthrough"]) == (1, "ok", ("failed", found, remedy))
    told = f"guest 0 on {NODE}: QEMU ended: exit status 1: qemu-system-x86_64: {NO_9P}; see out/0_console.out"
    check_launch(host, told=told, rows=[f"passthrough: {found}; {remedy}"], ended="lost")


def test_a_full_disk(host: BrokenHost) -> None:
    full = host.home / "full"
    full.mkdir()
    host.sh(f"mount -t tmpfs -o size=200k,mode=777 none {full}; head -c 190k /dev/zero >{full}/data")
    row = "~/full: No space left on device", "free some (du -xsh ~/full), or name another folder: --jobbase"
    status, rows = host.doctor("--jobbase=full", "--tmp-dir=full")
    assert (status, rows["job directories"]) == (1, ("failed", *row))
    assert rows["temporary disks"] == ("failed", row[0], row[1].replace("jobbase", "tmp-dir"))
    status, lines = host.launch("--jobdir=full/c")
    told = "can't write job directory '~/full/c': No space left on device: ~/full/c/.chslurm"
    assert (status, lines[0]) == (70, told)
    assert lines[1:] == [f"doctor: job directories: {'; '.join(row)}".replace("~/full", "~/full/c")]


def test_a_full_folder_for_temporary_disks(host: BrokenHost) -> None:
    full = host.home / "full"
    full.mkdir()
    host.sh(f"mount -t tmpfs -o size=100k,mode=777 none {full}; head -c 100k /dev/zero >{full}/data")
    status, lines = host.launch("--tmp-dir=full")
    remedy = "free some (du -xsh ~/full), or name another folder: --tmp-dir"
    assert (status, lines[-1]) == (70, f"doctor: temporary disks: ~/full: No space left on device; {remedy}")
    assert "No space left on device" in lines[-3]


def test_a_tiny_control_group(host: BrokenHost) -> None:
    if not host.limit_memory("600M"):
        pytest.skip("no control group can be made here")
    status, rows = host.doctor()
    verdict, found, remedy = rows["memory"]
    assert (status, verdict) == (1, "failed")
    assert found.endswith(" available, limit of our control group 600 MiB: 2 guests may have 0 MiB each")
    assert remedy == "fewer guests (-n), less RAM (--ram), or a larger limit: systemctl status $$"
    told = "1 guests with 512 MiB RAM each: this machine's 600 MiB allow 88 MiB each; "
    assert host.launch("--ram=512M") == (64, [f"{told}ask for fewer guests (-n) or less RAM (--ram)"])


def test_no_pasta(host: BrokenHost) -> None:
    for name in ("pasta", "slirp4netns"):
        host.sh(f"! command -v {name} >/dev/null || mount --bind /dev/null $(readlink -f $(command -v {name}))")
    found, remedy = "can't join guests to the outside: pasta is not installed", install(["pasta"], find_family())
    status, rows = host.doctor()
    assert (status, rows["pasta"]) == (1, ("failed", found, remedy))
    told = f"node {NODE}: {found}; install pasta (package passt) or slirp4netns"
    check_launch(host, told=told, rows=[f"pasta: {found}; {remedy}"])


def test_a_long_path(host: BrokenHost) -> None:
    folder = host.home.joinpath(*["x" * 100] * 10)
    folder.mkdir(parents=True)
    host.image = host.image.rename(folder / "image.qcow2")
    found = f"the image's has {len(str(host.image))} bytes, 1023 are possible below an overlay"
    remedy = "move the image to a folder with a shorter path: mv"
    status, rows = host.doctor(str(host.image))
    assert (status, rows["paths"]) == (1, ("failed", found, remedy))
    status, lines = host.launch()
    assert (status, lines[-1]) == (70, f"doctor: paths: {found}; {remedy}")
    assert lines[-3].startswith(f"node {NODE}: can't run qemu-img: exit status 1: ")


@pytest.mark.parametrize(
    ("device", "found", "remedy"),
    [
        (
            "echo no >/dev/net/kvm; chmod 666 /dev/net/kvm; mount --bind /dev/net/kvm /dev/kvm",
            "/dev/kvm makes no machine: Inappropriate ioctl for device",
            "sudo dmesg | grep -i kvm; without it: --accel tcg",
        ),
        (
            "touch /dev/net/kvm; chmod 600 /dev/net/kvm; mount --bind /dev/net/kvm /dev/kvm",
            "/dev/kvm: Permission denied",
            "sudo usermod -aG kvm nobody, and log in anew",
        ),
    ],
)
def test_a_wrong_kvm(host: BrokenHost, device: str, found: str, remedy: str) -> None:
    """A warning, as guests can be emulated; with --accel kvm the reason."""
    if not Path("/dev/kvm").exists():
        pytest.skip("there is no /dev/kvm to put another in the place of")
    host.sh(f"{WITH_VMX}; {device}")
    status, rows = host.doctor()
    assert (status, rows["KVM"]) == (0, ("warning", f"{found}: guests are emulated, which is slow", remedy))
    told = f"node {NODE}: can't use KVM: {found}; use --accel tcg, or ask for a node that has it"
    check_launch(host, "--accel=kvm", told=told, rows=[f"KVM: {found}; {remedy}"])


def test_wrong_variables_of_slurm(host: BrokenHost) -> None:
    host.env = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "cn[1-"}
    remedy = "env | grep ^SLURM shows them: start it in the job itself, and copy none"
    status, rows = host.doctor()
    assert (status, rows["SLURM job"]) == (1, ("failed", "SLURM_JOB_NODELIST 'cn[1-': unbalanced brackets", remedy))
    assert host.launch() == (64, ["SLURM_JOB_NODELIST 'cn[1-': unbalanced brackets"])


def test_a_job_without_srun(host: BrokenHost) -> None:
    names = {"JOB_NODELIST": "cn1", "JOB_NUM_NODES": "1", "JOB_CPUS_PER_NODE": "2", "MEM_PER_NODE": "2000"}
    host.env = {"SLURM_JOB_ID": "42", **{f"SLURM_{name}": value for name, value in names.items()}}
    status, lines = host.launch()
    remedy = f"load the site's module for SLURM, or: {install(['srun'], find_family())}"
    assert (status, lines[-1]) == (70, f"doctor: SLURM: no srun here, though SLURM_JOB_ID is set; {remedy}")
    assert lines[-3].startswith("the hosts' tasks ended early: exit status 12")
