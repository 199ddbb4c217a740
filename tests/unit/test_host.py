# SPDX-License-Identifier: Apache-2.0
"""What a host offers, and how SLURM is asked for a step: the parts that need no kernel and no SLURM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from chslurm.errors import ChslurmError
from chslurm.explain import render_explanation
from chslurm.host.accel import find_qemu
from chslurm.host.pasta import make_carrier_argv
from chslurm.host.slurm import check_place, find_bending_variables, make_srun_argv
from chslurm.host.tunnelport import find_owners
from chslurm.host.workstation import find_memory_folder_warning
from chslurm.plan import Mode, Plan

PlanMaker = Callable[..., Plan]

# -- SLURM ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(plan_of: PlanMaker) -> Plan:
    """Two hosts of a job, cn1 and cn2."""
    made = plan_of(2, 1)
    hosts = tuple(dataclasses.replace(host, name=f"cn{host.number}") for host in made.hosts)
    return dataclasses.replace(made, mode=Mode.CLUSTER, hosts=hosts)


def test_the_step_runs_on_the_hosts_of_the_plan(plan: Plan) -> None:
    argv = make_srun_argv(plan, ["task"], ["SLURM_NTASKS", "SLURM_JOB_ID"])
    assert argv[:4] == ["env", "-u", "SLURM_NTASKS", "srun"]
    assert "--nodelist=cn[1-2]" in argv
    assert argv[-1] == "task"


def test_only_variables_that_bend_the_step_are_kept_from_srun() -> None:
    bending = ["SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_CPU", "SRUN_CPUS_PER_TASK"]
    kept = ["SLURM_JOB_ID", "SLURM_STEPMGR", "SLURM_CONF", "SLURM_JWT", "SLURM", "MYSLURM_X", "PATH"]
    assert find_bending_variables([*kept, *bending]) == bending


@pytest.mark.parametrize("node", ["cn1", "cn1.site.example", None])
def test_a_task_at_its_place_is_left_alone(plan: Plan, node: str | None) -> None:
    check_place(plan, plan.host(1), {"SLURMD_NODENAME": node} if node else {})


def test_a_task_on_another_node_is_refused(plan: Plan) -> None:
    with pytest.raises(ChslurmError, match="has started the task of host 1 on node cn2; the plan has cn1 for it"):
        check_place(plan, plan.host(1), {"SLURMD_NODENAME": "cn2"})


# -- QEMU -------------------------------------------------------------------------------------------------------------


def make_program(folder: Path, name: str, body: str = "exit 0") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_qemu_is_found_by_either_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    kvm = make_program(tmp_path, "qemu-kvm", '[ "$*" = "-device virtio-9p-pci,help" ]')
    assert find_qemu() == str(kvm)
    system = make_program(tmp_path, "qemu-system-x86_64", "exit 1")  # is not asked: costs nothing
    assert find_qemu() == str(system)


def test_a_qemu_without_passthrough_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    make_program(tmp_path, "qemu-kvm", "exit 1")
    with pytest.raises(ChslurmError, match=r"qemu-kvm: it was built without passthrough.*put a qemu-system-x86_64"):
        find_qemu()


def test_no_qemu_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ChslurmError, match=r"neither qemu-system-x86_64 nor qemu-kvm nor .*; install qemu-system-x86"):
        find_qemu()


# -- network and folders ----------------------------------------------------------------------------------------------


def test_the_carrier_is_told_everything() -> None:
    argv = make_carrier_argv("7", "/proc/8/ns/net", "eth0", "10.0.0.1", "40000")
    assert argv[argv.index("--netns") + 1] == "/proc/8/ns/net"
    assert argv[argv.index("-u") + 1] == "10.0.0.1/40000"


def test_owners_of_a_port() -> None:
    text = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 00000000:1B58 00000000:0000 07 00000000:00000000 00:00000000 00000000  1001        0 21 2 0000000000000000 0
  101: 0100000A:1B58 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 22 2 0000000000000000 0
  102: 0100000A:1B59 0100000A:1B58 01 00000000:00000000 00:00000000 00000000  1002        0 23 2 0000000000000000 0
"""
    assert list(find_owners(text.splitlines(), 7000)) == [1001, 0]
    assert list(find_owners(text.splitlines(), 53)) == []


def test_a_folder_in_memory_is_warned_of() -> None:
    warning = find_memory_folder_warning("/dev/shm")
    assert warning
    assert warning.startswith("/dev/shm is in the node's memory (tmpfs)")
    assert find_memory_folder_warning(Path("/proc")) is None


# -- what is explained ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hosts", "peers_each"), [(2, 1), (100, 99), (101, 3)])
def test_the_explanation_grows_with_hosts_and_not_with_their_square(
    plan_of: PlanMaker, hosts: int, peers_each: int
) -> None:
    text = render_explanation(plan_of(hosts, 1))
    last = text.partition(f"network of host {hosts}: 1 guests in")[2]
    assert last.count("\n    neigh add 172.") == peers_each + (hosts > 100)
    assert ("of the 101 ends of the tunnel each host is shown with the first 4" in text) == (hosts > 100)
