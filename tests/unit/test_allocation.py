# SPDX-License-Identifier: Apache-2.0
"""What SLURM's variables and records say, and what is refused."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chslurm.allocation import (
    Node,
    SlurmRecords,
    find_job_state,
    is_allocation,
    make_allocation,
    needs_records,
)
from chslurm.errors import UsageError
from chslurm.plan import Mode

JOB = {
    "SLURM_JOB_ID": "42",
    "SLURM_JOB_NODELIST": "cn[001-003]",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2),2",
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_MEM_PER_NODE": "2000",
}
NODES = "".join(
    f"NodeName=cn00{number} Arch=x86_64 CPUAlloc=2 CPUEfctv=8 CPUTot=8 OS=Linux 6.1 #1 RealMemory={8000 * number} "
    f"AllocMem=0 FreeMem=1 State=MIXED {extra}\n"
    for number, extra in ((1, ""), (2, "MemSpecLimit=1000"), (3, "Comment=RealMemory of no use"))
)


def test_memory_for_each_node() -> None:
    allocation = make_allocation(JOB, SlurmRecords())
    assert allocation.mode is Mode.CLUSTER
    assert allocation.slurm_job_id == "42"
    assert allocation.nodes == (Node("cn001", 4, 2000), Node("cn002", 4, 2000), Node("cn003", 2, 2000))
    assert allocation.kill_wait_s == 30.0
    assert allocation.end_time_unix_s is None


def test_memory_for_each_core() -> None:
    job = {**JOB, "SLURM_MEM_PER_NODE": "", "SLURM_MEM_PER_CPU": "300"}
    assert [node.memory_mib for node in make_allocation(job, SlurmRecords()).nodes] == [1200, 1200, 600]


def test_of_two_statements_the_smaller_counts() -> None:
    job = {**JOB, "SLURM_MEM_PER_CPU": "600"}
    assert [node.memory_mib for node in make_allocation(job, SlurmRecords()).nodes] == [2000, 2000, 1200]


def test_a_nodes_memory_by_its_share_of_cores() -> None:
    job = {name: value for name, value in JOB.items() if name != "SLURM_MEM_PER_NODE"}
    assert needs_records(job)
    nodes = make_allocation(job, SlurmRecords(nodes=NODES)).nodes
    assert [node.memory_mib for node in nodes] == [8000 // 2, 15000 // 2, 24000 // 4]


def test_zero_means_all_of_a_nodes_memory() -> None:
    job = {**JOB, "SLURM_MEM_PER_NODE": "0"}
    assert needs_records(job)
    assert [node.memory_mib for node in make_allocation(job, SlurmRecords(nodes=NODES)).nodes] == [8000, 15000, 24000]


def test_stated_memory_needs_no_records() -> None:
    assert not needs_records(JOB)
    assert not needs_records({"SLURM_MEM_PER_CPU": "100"})


def test_end_kill_wait_and_version() -> None:
    records = SlurmRecords(
        job="JobId=42 JobName=a b EndTime=2026-01-02T03:04:05 Command=/x y",
        config="KeepAliveTime = 10\nKillOnBadExit           = 0\nKillWait                = 5 sec\n"
        "SLURM_VERSION           = 22.05.8\n",
    )
    allocation = make_allocation(JOB, records)
    assert allocation.end_time_unix_s == datetime(2026, 1, 2, 3, 4, 5).timestamp()
    assert (allocation.kill_wait_s, allocation.slurm_version) == (5.0, "22.05.8")
    stated = make_allocation({**JOB, "SLURM_JOB_END_TIME": "1800000000"}, records)
    assert stated.end_time_unix_s == 1_800_000_000.0
    assert make_allocation(JOB, SlurmRecords(job="EndTime=Unknown")).end_time_unix_s is None


ARRAY = "JobId=42 ArrayJobId=42 JobState=CANCELLED Reason=None\nJobId=43 ArrayJobId=42 JobState=RUNNING Reason=None\n"


@pytest.mark.parametrize(
    ("records", "job_id", "state"),
    [
        (ARRAY, "42", ("CANCELLED", "None")),
        (ARRAY, "43", ("RUNNING", "None")),
        (ARRAY, "4", ("", "")),
        ("slurm_load_jobs error: Invalid job id specified\n", "42", ("COMPLETED", "")),
        ("", "42", ("", "")),
    ],
)
def test_the_state_is_that_of_our_job(records: str, job_id: str, state: tuple[str, str]) -> None:
    assert find_job_state(records, job_id) == state


def test_a_shell_whose_allocation_is_over_starts_nothing() -> None:
    record = f"JobId={JOB['SLURM_JOB_ID']} JobState={{}} Reason=None\n"
    with pytest.raises(UsageError, match=r"^SLURM job '\d+' is over: CANCELLED; leave this shell"):
        make_allocation(JOB, SlurmRecords(job=record.format("CANCELLED")))
    make_allocation(JOB, SlurmRecords(job=record.format("RESIZING")))


@pytest.mark.parametrize(
    ("nodelist", "names"),
    [
        ("cn001", ["cn001"]),
        ("b,a", ["b", "a"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("a-b.example.org", ["a-b.example.org"]),
    ],
)
def test_names_keep_their_order(nodelist: str, names: list[str]) -> None:
    job = {
        **JOB,
        "SLURM_JOB_NODELIST": nodelist,
        "SLURM_JOB_CPUS_PER_NODE": f"1(x{len(names)})",
        "SLURM_JOB_NUM_NODES": str(len(names)),
    }
    assert [node.name for node in make_allocation(job, SlurmRecords()).nodes] == names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_JOB_NODELIST", "n[1-"),
        ("SLURM_JOB_NODELIST", ""),
        ("SLURM_JOB_NODELIST", "n[1-99999999]"),
        ("SLURM_JOB_NODELIST", "n[1-5000]"),
        ("SLURM_JOB_NODELIST", "a,a,b"),
        ("SLURM_JOB_NODELIST", "a,b c,d"),
        ("SLURM_JOB_NODELIST", "-x,b,c"),
        ("SLURM_JOB_NODELIST", "a\n,b,c"),
        ("SLURM_JOB_NODELIST", "cn[001-002]"),
        ("SLURM_JOB_CPUS_PER_NODE", ""),
        ("SLURM_JOB_CPUS_PER_NODE", "2(x0)"),
        ("SLURM_JOB_CPUS_PER_NODE", "0(x3)"),
        ("SLURM_JOB_CPUS_PER_NODE", "4(x2)"),
        ("SLURM_JOB_CPUS_PER_NODE", "4(x2),2,2"),
        ("SLURM_JOB_CPUS_PER_NODE", "4(x9999999)"),
        ("SLURM_JOB_CPUS_PER_NODE", "4(x2),"),
        ("SLURM_JOB_CPUS_PER_NODE", "4(y2),2"),
        ("SLURM_JOB_CPUS_PER_NODE", "-4(x2),2"),
        ("SLURM_JOB_NUM_NODES", "2"),
        ("SLURM_JOB_NUM_NODES", "three"),
        ("SLURM_JOB_NUM_NODES", ""),
        ("SLURM_MEM_PER_NODE", "2G"),
        ("SLURM_MEM_PER_CPU", "-1"),
        ("SLURM_MEM_PER_GPU", "100"),
        ("SLURM_JOB_ID", "42; rm"),
        ("SLURM_JOB_END_TIME", "tomorrow"),
        ("SLURM_HET_SIZE", "2"),
        ("SLURM_STEP_NUM_TASKS", "3"),
    ],
)
def test_what_is_garbled_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name) as error:
        make_allocation({**JOB, name: value}, SlurmRecords())
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


def test_unknown_memory_is_refused() -> None:
    job = {**JOB, "SLURM_MEM_PER_NODE": "0"}
    with pytest.raises(UsageError, match=r"cn001.*--mem"):
        make_allocation(job, SlurmRecords(nodes=""))
    with pytest.raises(UsageError, match="cn003"):
        make_allocation(job, SlurmRecords(nodes=NODES.rpartition("NodeName")[0]))


def test_a_job_id_makes_an_allocation() -> None:
    assert is_allocation({"SLURM_JOB_ID": "1"})
    assert not is_allocation({"SLURM_JOB_ID": ""})
    assert not is_allocation({})


@given(st.sampled_from(sorted(JOB)), st.text(alphabet=st.sampled_from("n0123456789[](x),-; \n")))
@example("SLURM_JOB_NODELIST", "[][\n]")
@example("SLURM_JOB_NODELIST", "n" + "[1]" * 2000)
def test_any_text_makes_an_allocation_or_an_error(name: str, value: str) -> None:
    try:
        make_allocation({**JOB, name: value}, SlurmRecords(nodes=NODES))
    except UsageError as error:
        assert str(error).isprintable()  # noqa: PT017
