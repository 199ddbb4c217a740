# SPDX-License-Identifier: Apache-2.0
"""What releases of SLURM from 22.05 to 26.05 say, as recorded, and who is asked."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.allocation import SlurmRecords, find_job_state, make_allocation
from chslurm.errors import UsageError
from chslurm.host import slurmrecords
from chslurm.slurmjson import find_number, find_release, render_json_jobs, render_json_nodes

RECORDED = Path(__file__).parent.parent / "fakes" / "slurm" / "recorded"
JOB = {
    "SLURM_JOB_ID": "1842",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    "SLURM_JOB_NUM_NODES": "2",
}
END_S = 1_900_000_000.0


def read(name: str) -> str:
    return (RECORDED / name).read_text()


def environment_of(name: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in read(name).splitlines())


@pytest.mark.parametrize(
    ("name", "memory_mib"),
    [
        ("22.05-squeue.json", 6000),
        ("23.02-job.json", 6000),
        ("23.11-job.json", 6000),
        ("24.05-job.json", 6000),
        ("24.11-job.json", 6000),
        ("25.05-job.json", 6000),
        ("25.11-job.json", 12000),
        ("26.05-complex.json", 6000),
    ],
)
def test_json_of_each_release_makes_the_same_allocation(name: str, memory_mib: int) -> None:
    record = render_json_jobs(read(name))
    assert find_job_state(record, "1842") == ("RUNNING", "None")
    allocation = make_allocation(JOB, SlurmRecords(job=record))
    assert [node.memory_mib for node in allocation.nodes] == [memory_mib] * 2
    assert allocation.end_time_unix_s == END_S


def test_a_job_that_ends_says_so_in_a_list_of_states() -> None:
    record = render_json_jobs(read("26.05-job.json"))
    assert find_job_state(record, "1842") == ("COMPLETING", "TimeLimit")
    assert "EndTime" not in record


@pytest.mark.parametrize("name", ["23.02-node.json", "26.05-node.json"])
def test_nodes_as_json(name: str) -> None:
    job = {**JOB, "SLURM_MEM_PER_NODE": "0"}
    nodes = make_allocation(job, SlurmRecords(nodes=render_json_nodes(read(name)))).nodes
    assert [node.memory_mib for node in nodes] == [16000, 15000]


def test_text_of_22_05() -> None:
    job = {**JOB, "SLURM_JOB_ID": "4", "SLURM_JOB_NODELIST": "cn[001-002]", "SLURM_JOB_CPUS_PER_NODE": "1(x2)"}
    allocation = make_allocation(job, SlurmRecords(job=read("22.05-job.txt")))
    assert [node.memory_mib for node in allocation.nodes] == [3000, 3000]
    assert allocation.end_time_unix_s == datetime(2026, 11, 26, 12, 54, 10).timestamp()
    one = {**job, "SLURM_JOB_NODELIST": "cn001", "SLURM_JOB_CPUS_PER_NODE": "1", "SLURM_JOB_NUM_NODES": "1"}
    records = SlurmRecords(nodes=read("22.05-node.txt"))
    assert make_allocation({**one, "SLURM_MEM_PER_NODE": "0"}, records).nodes[0].memory_mib == 6000
    assert find_job_state(read("22.05-unknown-job.txt"), "4") == ("COMPLETED", "")


def test_a_task_of_an_array_is_its_own_job() -> None:
    """Asked for the array's number, which is that of its last task, SLURM tells of all tasks, the last one first."""
    task = {**environment_of("22.05-array-task.env"), "SLURM_JOB_NODELIST": "cn002", "SLURM_JOB_NUM_NODES": "1"}
    records = SlurmRecords(job=read("22.05-array.txt"))
    allocation = make_allocation({**task, "SLURM_JOB_CPUS_PER_NODE": "1"}, records)
    assert allocation.slurm_job_id == "19"
    assert allocation.end_time_unix_s == datetime(2026, 11, 26, 13, 24, 53).timestamp()
    assert allocation.nodes[0].memory_mib == 500
    assert find_job_state(records.job, "18") == ("PENDING", "JobArrayTaskLimit")
    last = make_allocation({**task, "SLURM_JOB_ID": "18", "SLURM_JOB_CPUS_PER_NODE": "1"}, records)
    assert last.end_time_unix_s is None


def test_a_heterogeneous_job_is_refused_with_a_remedy() -> None:
    message = r"^SLURM_HET_SIZE '2': a heterogeneous job, .*; submit a job of one component"
    environment = environment_of("22.05-heterogeneous.env")
    with pytest.raises(UsageError, match=message):
        make_allocation(environment, SlurmRecords())
    del environment["SLURM_HET_SIZE"]
    with pytest.raises(UsageError, match=message):
        make_allocation(environment, SlurmRecords())


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5),
        ({"set": True, "infinite": False, "number": 5}, 5),
        ({"set": True, "number": 0}, 0),
        ({"set": False, "infinite": False, "number": 0}, None),
        ({"set": False, "infinite": True, "number": 0}, None),
        ({"set": True, "number": "5"}, None),
        (0xFFFFFFFE, None),
        (-1, None),
        (True, None),
        (None, None),
        ("Infinity", None),
    ],
)
def test_numbers_in_all_their_forms(value: object, number: int | None) -> None:
    assert find_number(value) == number


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["set", "number", "x"]), x),
    )
)
def test_any_value_makes_a_line_or_none(value: object) -> None:
    import msgspec

    fields = ("job_id", "job_state", "state_reason", "end_time", "memory_per_node", "array_task_id")
    text = msgspec.json.encode({"jobs": [dict.fromkeys(fields, value)]}).decode()
    assert render_json_jobs(text).count("\n") <= 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"jobs": 3}', '{"jobs": [3]}', "null"])
def test_what_is_no_document_tells_nothing(text: str) -> None:
    assert render_json_jobs(text) == ""


def test_releases() -> None:
    assert find_release(["slurm-wlm 22.05.8"]) == (22, 5)
    assert find_release(["slurm 26.05.1"]) == find_release(["26.5.1"]) == (26, 5)
    assert find_release(["", "who knows"]) is None


# -- who is asked -----------------------------------------------------------------------------------------------------


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose file `--json show job 42` is what scontrol says to that; PATH has no other programs than these."""
    folder = tmp_path / "answers"
    folder.mkdir()
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    script = f'#!/bin/sh\nread=/bin/cat\nexec $read "{folder}/$*"\n'
    for name in ("scontrol", "srun"):
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    (folder / "--version").write_text("slurm 26.05.1\n")
    monkeypatch.setenv("PATH", str(bin_folder))
    return folder


def test_text_is_enough(answers: Path) -> None:
    (answers / "-o show job 4").write_text(read("22.05-job.txt"))
    assert slurmrecords.ask_job("4") == read("22.05-job.txt")


def test_json_where_the_text_has_none_of_our_words(answers: Path) -> None:
    (answers / "-o show job 1842").write_text("Auftrag 1842 läuft\n")
    (answers / "-o show node n[1-2]").write_text("Knoten\n")
    (answers / "--json show job 1842").write_text(read("26.05-complex.json"))
    (answers / "--json show node n[1-2]").write_text(read("26.05-node.json"))
    assert find_job_state(slurmrecords.ask_job("1842"), "1842") == ("RUNNING", "None")
    assert slurmrecords.ask_nodes("n[1-2]").startswith("NodeName=n1 CPUTot=8 RealMemory=16000\n")


def test_a_controller_that_does_not_answer_is_asked_once(answers: Path) -> None:
    (answers / "--json show job 1842").write_text(read("26.05-job.json"))
    assert slurmrecords.ask_job("1842") == ""


def fake_pyslurm(version: str) -> Any:
    module: Any = ModuleType("pyslurm")
    module.__version__ = version
    job = SimpleNamespace(
        id=1842, state="RUNNING", state_reason=None, end_time=int(END_S), memory_per_node=None, memory_per_cpu=1500
    )
    node = SimpleNamespace(name="n1", total_cpus=8, real_memory=16000, specialized_memory=None)
    module.Job = SimpleNamespace(load=lambda job_id: {1842: job}[job_id])
    module.Node = SimpleNamespace(load=lambda name: node)
    return module


@pytest.mark.parametrize(
    ("version", "why"),
    [("26.5.0", "for SLURM 26.05"), ("25.11.2", "it is for SLURM 25.11, here is 26.05"), ("?", "of a release that")],
)
def test_pyslurm_has_to_fit(answers: Path, monkeypatch: pytest.MonkeyPatch, version: str, why: str) -> None:
    """It stands in where there is no scontrol."""
    Path(os.environ["PATH"], "scontrol").unlink()
    monkeypatch.setitem(sys.modules, "pyslurm", fake_pyslurm(version))
    fits = version.startswith("26.")
    assert slurmrecords.import_pyslurm()[1].startswith(why)
    record = slurmrecords.ask_job("1842")
    assert find_job_state(record, "1842") == (("RUNNING", "") if fits else ("", ""))
    assert slurmrecords.ask_job("7") == ""
    assert slurmrecords.ask_nodes("n1") == ("NodeName=n1 CPUTot=8 RealMemory=16000\n" if fits else "")
    if fits:
        allocation = make_allocation(JOB, SlurmRecords(job=record))
        assert (allocation.nodes[0].memory_mib, allocation.end_time_unix_s) == (6000, END_S)


def test_no_pyslurm(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyslurm", None)
    assert slurmrecords.import_pyslurm() == (None, "not installed")
