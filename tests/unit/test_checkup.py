# SPDX-License-Identifier: Apache-2.0
"""Facts become rows, rows of several nodes one table, and few of them end a launch that has failed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm import remedies
from chslurm.allocation import Allocation, Node
from chslurm.checkup import (
    ANSWER_MAX_BYTES,
    MOST_TOLD,
    Answer,
    Finding,
    Needs,
    Row,
    Topic,
    Verdict,
    choose_told,
    decode_answer,
    encode_answer,
    is_bad,
    merge_rows,
    render_row,
    render_told,
    render_verdicts,
)
from chslurm.diagnosis import (
    RAN,
    KvmFacts,
    LimitFacts,
    MemoryFacts,
    QemuFacts,
    SpaceFacts,
    Tried,
    judge_clock,
    judge_clocks,
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
from chslurm.filters import Family
from chslurm.kinds import Accelerator, Mode, NetworkKind, TunnelKind
from chslurm.netdiagnosis import NetworkFacts, TunnelFacts, judge_network, judge_outside, judge_site, judge_vxlan
from chslurm.slurmdiagnosis import SlurmFacts, judge_job, judge_slurm, judge_step

DEBIAN = remedies.Family.DEBIAN
CLUSTER = Needs(mode=Mode.CLUSTER, host_ct=2, guest_ct=1)
NO_FLAG = "the processor has neither vmx nor svm (or hides them from this machine)"


def verdicts(rows: list[Row]) -> dict[str, str]:
    return {str(row.topic): str(row.verdict) for row in rows}


# -- this machine -----------------------------------------------------------------------------------------------------


def test_root_starts_no_clusters() -> None:
    assert judge_user(0, "root").verdict is Verdict.FAILED
    assert judge_user(1000, "reidpr") == Row(Topic.USER, "reidpr (1000)")


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ('ID=ubuntu\nID_LIKE="debian"\n', "sudo apt install qemu-utils e2fsprogs iproute2"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "sudo dnf install qemu-img e2fsprogs iproute"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "sudo zypper install qemu-img e2fsprogs iproute2"),
        ("ID='rhel'\nID_LIKE='fedora'\n", "sudo dnf install qemu-img e2fsprogs iproute"),
        ("ID=arch\n", "install qemu-img, mkfs.ext4, ip, bridge"),
    ],
)
def test_missing_programs_are_installed_as_the_distribution_does(release: str, command: str) -> None:
    row = judge_programs(["qemu-img", "mkfs.ext4", "ip", "bridge"], remedies.find_family(release))
    assert (row.found, row.remedy) == ("not found: qemu-img, mkfs.ext4, ip, bridge", command)
    assert judge_programs([], DEBIAN).verdict is Verdict.OK


def test_qemu() -> None:
    facts = QemuFacts("/usr/bin/qemu", "QEMU 7.2", RAN, "", RAN, "", "/usr/libexec/virtiofsd")
    assert [row.found for row in judge_qemu(facts, DEBIAN)] == [
        "QEMU 7.2 (/usr/bin/qemu) runs a guest, sandboxed",
        "9p; /usr/libexec/virtiofsd is there, and not used",
    ]
    without = QemuFacts("/usr/bin/qemu", "QEMU 7.2", 1, "no such device", RAN, "")
    assert verdicts(list(judge_qemu(without, DEBIAN))) == {"QEMU": "ok", "passthrough": "failed"}
    dead = QemuFacts("/usr/bin/qemu", "QEMU 7.2", -11, "it said nothing", -11, "it said nothing")
    assert verdicts(list(judge_qemu(dead, DEBIAN))) == {"QEMU": "failed", "passthrough": "not tried"}
    nobody = next(judge_no_qemu(Tried(trouble="can't find QEMU on this host", hint="install"), DEBIAN))
    assert nobody.remedy == "sudo apt install qemu-system-x86"


@pytest.mark.parametrize(
    ("release", "remedy"),
    [
        ("ID=fedora\n", "sudo dnf install qemu-system-x86-core"),
        ("ID='rhel'\nID_LIKE='fedora'\n", "build QEMU with --enable-virtfs and put it first on PATH, on every node: "),
        ('ID="almalinux"\nID_LIKE="rhel centos fedora"\n', "build QEMU with --enable-virtfs and put it first on PATH"),
    ],
)
def test_nobody_is_told_to_install_a_qemu_that_is_refused(release: str, remedy: str) -> None:
    """The package of RHEL and its kin has no passthrough."""
    family = remedies.find_family(release)
    nobody = next(judge_no_qemu(Tried(trouble="can't find QEMU on this host", hint="install"), family))
    assert nobody.remedy.startswith(remedy)
    *_, without = judge_qemu(QemuFacts("/usr/bin/qemu", "QEMU 7.2", 1, "no such device", RAN, ""), family)
    assert remedy in without.remedy


@pytest.mark.parametrize(
    ("obstacle", "virtual", "remedy"),
    [
        (NO_FLAG, True, "turn on nested virtualisation on the machine that runs this virtual one: sudo modprobe -r"),
        (NO_FLAG, False, "turn on virtualisation in the firmware's set-up"),
        ("/dev/kvm: Permission denied", False, "sudo usermod -aG kvm reidpr, and log in anew"),
        ("/dev/kvm: No such file or directory", False, "sudo modprobe kvm_intel, or kvm_amd"),
        ("/dev/kvm makes no machine: Device or resource busy", False, "sudo dmesg | grep -i kvm"),
    ],
)
def test_why_there_is_no_kvm(obstacle: str, virtual: bool, remedy: str) -> None:
    facts = KvmFacts(obstacle, "reidpr", virtual)
    row = judge_kvm(facts, Needs())
    assert row.verdict is Verdict.WARNING
    assert row.remedy.startswith(remedy)
    assert judge_kvm(facts, Needs(accelerator=Accelerator.KVM)).verdict is Verdict.FAILED
    assert judge_kvm(facts, Needs(accelerator=Accelerator.TCG)).verdict is Verdict.NOT_TRIED


def test_kvm_that_opens_and_does_not_run_fails_as_it_would_be_taken() -> None:
    row = judge_kvm(KvmFacts(None, "reidpr", True, -6, "Assertion failed"), Needs())
    assert (row.verdict, row.found) == (Verdict.FAILED, "makes a machine, but runs no guest: Assertion failed")
    assert judge_kvm(KvmFacts(None, "reidpr", True), Needs()).found == "runs a guest"
    nobody = judge_kvm(KvmFacts(None, "reidpr", True, None), Needs())
    assert (nobody.verdict, nobody.found) == (Verdict.NOT_TRIED, "takes a QEMU")


def test_vhost_is_only_quicker() -> None:
    assert judge_vhost(True).verdict is Verdict.OK
    assert judge_vhost(False).verdict is Verdict.WARNING


def test_images() -> None:
    assert judge_image(Tried("whole"), "/i").verdict is Verdict.OK
    assert judge_image(Tried(trouble="image: Permission denied"), "/a b").remedy.startswith(
        "its owner lets you read it: chmod a+r '/a b'"
    )
    assert judge_image(Tried(trouble="image: it is encrypted", hint="decrypt it"), "/i").remedy == "decrypt it"
    assert "ls -l /i" in judge_image(Tried(trouble="image '/i': No such file or directory"), "/i").remedy


@pytest.mark.parametrize(
    ("facts", "needs", "verdict", "found"),
    [
        (MemoryFacts(24000, 20000, None, 0), Needs(), "ok", "19.53 GiB of 23.44 GiB available: 2 guests may have "),
        (MemoryFacts(24000, 20000, 3000, 0), Needs(), "warning", "limit of our control group 2.93 GiB: 2 guests may"),
        (
            MemoryFacts(24000, 600, None, 0),
            Needs(),
            "failed",
            "600 MiB of 23.44 GiB available: 2 guests may have 0 MiB",
        ),
        (MemoryFacts(24000, 20000, 3000, 0), CLUSTER, "ok", "group 2.93 GiB; the job has what SLURM gave it"),
        (MemoryFacts(24000, 20000, 3000, 2), CLUSTER, "warning", "the kernel has killed 2 of our processes for want"),
    ],
)
def test_memory(facts: MemoryFacts, needs: Needs, verdict: str, found: str) -> None:
    row = judge_memory(facts, needs)
    assert row.verdict == verdict
    assert found in row.found
    assert bool(row.remedy) == (verdict != "ok")


@pytest.mark.parametrize(
    ("free_mib", "trouble", "option", "verdict"),
    [
        (9000, "", "--jobbase", "ok"),
        (900, "", "--jobbase", "warning"),
        (30, "", "--jobbase", "failed"),
        (9000, "Disk quota exceeded", "--jobbase", "failed"),
        (900, "", "", "ok"),
        (30, "", "", "warning"),
    ],
)
def test_space(free_mib: int, trouble: str, option: str, verdict: str) -> None:
    row = judge_space(Topic.JOB_SPACE, SpaceFacts("/scratch", "xfs", free_mib, trouble), option)
    assert row.verdict == verdict
    assert bool(row.remedy) == (verdict != "ok")
    assert (trouble or "(xfs)") in row.found


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [
        ("No such file or directory", "mkdir -p /scratch where guests run, or name another folder: --tmp-dir"),
        ("Permission denied", "ls -ld /scratch; or name another folder: --tmp-dir"),
        ("No space left on device", "free some (du -xsh /scratch), or name another folder: --tmp-dir"),
    ],
)
def test_folders_that_can_not_be_written(trouble: str, remedy: str) -> None:
    row = judge_space(Topic.TMP_SPACE, SpaceFacts("/scratch", "xfs", 9000, trouble), "--tmp-dir")
    assert (row.verdict, row.remedy) == (Verdict.FAILED, remedy)


def test_nearly_the_same_space_is_told_alike() -> None:
    rows = {judge_space(Topic.TMP_SPACE, SpaceFacts("/tmp", "ext4", free, ""), "--tmp-dir") for free in (61000, 61100)}
    assert len(rows) == 1


def test_paths() -> None:
    assert judge_paths("/home/user", "/i").verdict is Verdict.OK
    assert judge_paths("/" + "ä" * 2020, "/i").remedy == "name a folder with a shorter path: --jobbase"
    assert judge_paths("/home/user", "/" + "x" * 1023).verdict is Verdict.FAILED
    assert judge_paths("/home/user", "/" + "x" * 1022).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("facts", "verdict", "remedy"),
    [
        (LimitFacts(1024, None, None, None), "ok", ""),
        (LimitFacts(256, None, None, None), "warning", "ulimit -n 1024"),
        (LimitFacts(1024, 100, None, None), "warning", "ulimit -u 256"),
        (LimitFacts(1024, None, 100, None), "failed", "ulimit -f unlimited"),
        (LimitFacts(1024, None, None, 1000), "failed", "ulimit -v unlimited"),
    ],
)
def test_limits(facts: LimitFacts, verdict: str, remedy: str) -> None:
    row = judge_limits(facts, Needs())
    assert (row.verdict, row.remedy) == (verdict, remedy)


def test_clocks() -> None:
    assert judge_clock(True, 0.01).found == "kept by NTP; the same as of the job directories' file system"
    assert judge_clock(False, None).verdict is Verdict.OK
    behind = judge_clock(True, 60.0)
    assert (behind.verdict, behind.found) == (
        Verdict.WARNING,
        "60.0 s behind that of the job directories' file system",
    )
    assert judge_clocks({"cn1": 0.2, "cn2": 0.25}).found == "2 nodes within 0.1 s"
    assert judge_clocks({"cn1": 0.2, "cn2": -7.0}).found == "cn1 is 7.2 s ahead of cn2"


# -- network ----------------------------------------------------------------------------------------------------------

WELL = NetworkFacts(Tried("made"), {}, Tried("made"), Tried("loaded"), {}, Tried("made"))


def test_a_network_that_can_be_made() -> None:
    rows = list(judge_network(WELL, CLUSTER))
    assert set(verdicts(rows).values()) == {"ok"}
    assert all(row.found and not row.remedy for row in rows)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"user.max_user_namespaces": "0"}, "sudo sysctl -w user.max_user_namespaces=15000"),
        ({"user.max_net_namespaces": "0"}, "sudo sysctl -w user.max_net_namespaces=15000"),
        ({"kernel.unprivileged_userns_clone": "0"}, "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            {"user.max_user_namespaces": "9", "kernel.apparmor_restrict_unprivileged_userns": "1"},
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,` for",
        ),
        ({"user.max_user_namespaces": "9"}, "a container or a security module forbids them"),
    ],
)
def test_why_there_are_no_namespaces(settings: dict[str, str], remedy: str) -> None:
    rows = list(judge_network(NetworkFacts(Tried(trouble="can't use a user namespace"), settings), Needs()))
    assert verdicts(rows) == {
        "user namespaces": "failed",
        "TAP devices": "not tried",
        "packet filters": "not tried",
        "tunnel: WireGuard": "not tried",
    }
    assert rows[0].remedy.startswith(remedy)
    in_roots = next(judge_network(NetworkFacts(Tried(trouble="no"), settings), Needs(site=True)))
    assert in_roots.verdict is Verdict.WARNING


def test_taps_and_filters() -> None:
    for trouble, remedy in (
        ("/dev/net/tun: No such file or directory", "sudo modprobe tun && sudo chmod 666 /dev/net/tun"),
        ("/dev/net/tun: Permission denied", "sudo chmod 666 /dev/net/tun"),
        ("/dev/net/tun: No such device", "sudo modprobe tun && sudo chmod 666 /dev/net/tun"),
        ("/dev/net/tun: Operation not permitted", "sudo modprobe tun; where that says no more"),
    ):
        facts = NetworkFacts(Tried("made"), {}, Tried(trouble=trouble), None, {}, Tried("made"))
        rows = list(judge_network(facts, Needs()))
        assert rows[1].remedy.startswith(remedy)
        assert verdicts(rows)["packet filters"] == "not tried"
    refused = NetworkFacts(Tried("made"), {}, Tried("made"), Tried("loaded"), {Family.BRIDGE: "no such"}, Tried("x"))
    assert verdicts(list(judge_network(refused, Needs())))["packet filters"] == "warning"
    bare = NetworkFacts(Tried("made"), {}, Tried("made"), Tried(trouble="no inet"), {}, Tried("x"))
    assert verdicts(list(judge_network(bare, Needs())))["packet filters"] == "failed"


def test_wireguard_is_needed_when_it_is_asked_for() -> None:
    facts = NetworkFacts(Tried("made"), {}, Tried("made"), Tried("loaded"), {}, Tried(trouble="Unknown device type"))
    for needs, verdict in (
        (CLUSTER, "warning"),
        (Needs(mode=Mode.CLUSTER, host_ct=2, tunnel=TunnelKind.WIREGUARD), "failed"),
        (Needs(tunnel=TunnelKind.WIREGUARD), "warning"),
        (Needs(mode=Mode.CLUSTER, host_ct=2, tunnel=TunnelKind.VXLAN), "not tried"),
    ):
        assert verdicts(list(judge_network(facts, needs)))["tunnel: WireGuard"] == verdict


def test_pasta_is_needed_on_workstations_and_between_hosts() -> None:
    trouble = Tried(trouble="can't start pasta: No such file or directory", hint="install it, or put it on PATH")
    one = Needs(mode=Mode.CLUSTER, guest_ct=1)
    assert [judge_outside(trouble, needs, DEBIAN).verdict for needs in (Needs(), CLUSTER, Needs(site=True))] == [
        "failed",
        "warning",
        "warning",
    ]
    facts = TunnelFacts(trouble, carried=False)
    assert [judge_vxlan(facts, needs, DEBIAN).verdict for needs in (CLUSTER, one, Needs())] == [
        "failed",
        "warning",
        "warning",
    ]
    assert judge_vxlan(facts, CLUSTER, DEBIAN).remedy == "sudo apt install passt"
    assert judge_vxlan(None, CLUSTER, DEBIAN).verdict is Verdict.NOT_TRIED
    assert judge_outside(Tried("outside by pasta"), Needs(), DEBIAN) == Row(Topic.OUTSIDE, "outside by pasta")


@pytest.mark.parametrize(
    ("tunnel", "carried", "wireguard", "verdict"),
    [
        (TunnelKind.AUTO, True, "", "warning"),
        (TunnelKind.AUTO, True, "Unknown device type", "failed"),
        (TunnelKind.AUTO, False, "", "failed"),
        (TunnelKind.WIREGUARD, True, "", "warning"),
        (TunnelKind.WIREGUARD, True, "Unknown device type", "warning"),  # which a row of its own tells
        (TunnelKind.WIREGUARD, False, "", "failed"),
        (TunnelKind.VXLAN, True, "", "failed"),
    ],
)
def test_without_vxlan_wireguard_does_if_pasta_carries_it(
    tunnel: TunnelKind, carried: bool, wireguard: str, verdict: str
) -> None:
    needs = Needs(mode=Mode.CLUSTER, host_ct=2, guest_ct=1, tunnel=tunnel)
    facts = TunnelFacts(Tried(trouble="can't make a VXLAN: Unknown device type"), carried, wireguard)
    row = judge_vxlan(facts, needs, DEBIAN)
    assert (row.verdict, row.remedy) == (verdict, "sudo modprobe vxlan")
    assert choose_told([row]) == ([row] if verdict == "failed" else [])


def test_a_network_of_roots_is_needed_when_it_is_asked_for() -> None:
    assert judge_site("for this job", CLUSTER).verdict is Verdict.OK
    assert judge_site("", CLUSTER).verdict is Verdict.OK
    assert judge_site("", Needs(network=NetworkKind.SITE)).verdict is Verdict.FAILED


# -- SLURM ------------------------------------------------------------------------------------------------------------


def test_slurm_as_it_should_be() -> None:
    job = Allocation(Mode.CLUSTER, (Node("cn001", 2, 1024), Node("cn002", 2, 1024)), "42")
    facts = SlurmFacts(
        version=Tried("slurm 26.05.1"),
        ping=Tried("Slurmctld(primary) at head is UP"),
        text=True,
        json=True,
        pyslurm=Tried(trouble="not installed"),
        mpi=("pmix", "pmi2"),
    )
    step = judge_step(Tried("srun --overlap runs beside this one"))
    rows = [*judge_slurm(facts, DEBIAN, in_job=True), judge_job(job), *step]
    assert {row.verdict for row in rows} == {Verdict.OK}
    assert [f"{finding.row.topic}: {finding.row.found}" for finding in merge_rows({"": rows})] == [
        "SLURM: slurm 26.05.1; Slurmctld(primary) at head is UP",
        "SLURM job: 42 on cn[001-002], 4 cores, 2 GiB",
        "SLURM steps: srun --overlap runs beside this one",
        "SLURM records: by scontrol, else scontrol --json; pyslurm: not installed",
        "SLURM MPI: pmix, pmi2: for steps of your own; guests have an MPI of theirs",
    ]


def test_slurm_that_lacks_something() -> None:
    nothing = list(judge_slurm(SlurmFacts(), DEBIAN, in_job=False))
    assert verdicts([*nothing, judge_job(None), *judge_step(None)]) == {"SLURM": "not tried", "SLURM job": "not tried"}
    (first, *_) = judge_slurm(SlurmFacts(), DEBIAN, in_job=True)
    assert (first.verdict, first.remedy) == (
        "failed",
        "load the site's module for SLURM, or: sudo apt install slurm-client",
    )
    old = SlurmFacts(version=Tried("slurm 20.02.7"), ping=Tried("up"), text=True)
    assert verdicts(list(judge_slurm(old, DEBIAN, in_job=False)))["SLURM"] == "failed"
    mute = SlurmFacts(version=Tried("slurm 23.11.4"), ping=Tried(trouble="Slurmctld(primary) at head is DOWN"))
    rows = verdicts(list(judge_slurm(mute, DEBIAN, in_job=True)))
    assert (rows["SLURM"], rows["SLURM records"]) == ("warning", "warning")
    assert verdicts(list(judge_step(Tried(trouble="srun: error: no"))))["SLURM steps"] == "failed"
    assert judge_job(Tried(trouble="SLURM_JOB_NODELIST: empty")).verdict is Verdict.FAILED


# -- the table --------------------------------------------------------------------------------------------------------

KVM = Row(Topic.KVM, "none", Verdict.WARNING, "buy one")
TUN = Row(Topic.TUN, "denied", Verdict.FAILED, "chmod it")
QEMU = Row(Topic.QEMU, "7.2")


def test_rows_that_all_nodes_have_are_shown_once() -> None:
    findings = merge_rows({"cn001": [QEMU, KVM], "cn002": [QEMU, KVM, TUN], "cn003": [QEMU, TUN]})
    assert findings == [Finding(QEMU), Finding(KVM, "cn[001-002]"), Finding(TUN, "cn[002-003]")]
    assert is_bad(findings)
    assert not is_bad(findings[:2])
    assert render_verdicts(findings) == "3 rows: 1 ok, 1 warning, 1 failed"


def test_a_failed_launch_is_told_what_fails_and_else_what_could_matter() -> None:
    assert choose_told([QEMU, KVM, TUN]) == [TUN]
    little = Row(Topic.MEMORY, "little", Verdict.WARNING, "less")
    assert choose_told([QEMU, KVM, little]) == [little]
    assert choose_told([QEMU]) == []
    assert len(choose_told([TUN] * 20)) == MOST_TOLD
    assert render_told({render_row(TUN): ["cn002", "cn003"]}, 3) == [
        "doctor: cn[002-003]: TAP devices: denied; chmod it"
    ]
    assert render_told({render_row(TUN): ["here"]}, 1) == ["doctor: TAP devices: denied; chmod it"]
    assert len(render_told({str(number): ["a"] for number in range(20)}, 2)) == MOST_TOLD


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_an_answer_is_one_short_line(found: str, remedy: str) -> None:
    try:
        line = encode_answer(Answer("cn001", Row(Topic.IMAGE, found, Verdict.FAILED, remedy)))
    except UnicodeEncodeError:
        return  # not text that a node could say
    assert len(line) <= ANSWER_MAX_BYTES + 1
    assert line.count(b"\n") == 1
    answer = decode_answer(line)
    assert answer is not None
    assert answer.row is not None
    assert answer.row.verdict is Verdict.FAILED
    assert found.startswith(answer.row.found.removesuffix("…"))


@pytest.mark.parametrize("line", [b"", b"srun: error: no\n", b'{"node": 3}', b'{"node":"a","row":{"topic":"x"}}'])
def test_what_is_no_answer(line: bytes) -> None:
    assert decode_answer(line) is None


def test_rows_travel_as_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode([KVM, TUN]), type=list[Row]) == [KVM, TUN]
