# SPDX-License-Identifier: Apache-2.0
"""The check of the network by real guests: all is well with all controls, and a broken filter is found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from realbox import Box, Result

pytestmark = pytest.mark.real

STATES = ["its own", "next host's guest", "node's"]


def check(box: Box, nodes: int, *options: str) -> Result:
    """Run the check in an allocation, with job directory `c`."""
    salloc = ("salloc", f"--nodes={nodes}", "--cpus-per-task=1", "--mem=1600M")
    return box(*salloc, "chslurm", "net", "check", "--jobdir=c", *options, box.image)


def rows_of(box: Box) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((box.folder / "c" / "run" / "netcheck.json").read_text())["rows"]
    return rows


def test_nothing_leaves_a_cluster_on_two_nodes_and_without_filters_it_would(box: Box) -> None:
    done = check(box, 2)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(box)
    *_, last = done.stdout.splitlines()
    assert last == f"{len(rows)} rows: all ok, 1 not tried"
    assert all(f"pass {number} of 5, " in done.stderr for number in range(1, 6))

    tried = [row for row in rows if row["verdict"] != "not tried"]
    assert {row["verdict"] for row in tried} == {"ok"}
    attacks = [row for row in tried if row["id"][0] == "S"]
    assert {row["arrived"] for row in attacks} == {"nowhere"}
    for id_ in ("S2", "S3", "S6", "S8", "S9"):
        assert [row["address"] for row in attacks if row["id"] == id_ and row["address"] in STATES[1:]] == STATES[1:]

    # each attack has shown that it would arrive
    for row in attacks:
        how, _, counts = row["control"].partition(": ")
        if row["id"] != "S12":
            assert how in ("filters off", "from the node", "from a guest"), row
            assert counts.split(" of ")[0] == counts.split(" of ")[1] != "0", row
    assert {row["tried"].rsplit(" ", 1)[1] for row in attacks if row["id"] == "S12"} == {"inet", "netdev", "bridge"}


def test_a_filter_that_is_missing_is_found(box: Box) -> None:
    done = check(box, 1, "--short", "--json", "--without=netdev,bridge")
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["good"], report["rows"]) == (False, rows_of(box))
    failed = {row["id"] for row in report["rows"] if row["verdict"] == "FAILED"}
    assert {"S1", "S2", "S3", "S4", "S5", "S6", "S8"} <= failed
    (macs,) = [row for row in report["rows"] if row["id"] == "S1"]
    assert "chgu1 (" in macs["arrived"]
    assert "bridge of cn001 (" in macs["arrived"]
    assert {row["verdict"] for row in report["rows"] if row["id"][0] == "L"} == {"ok"}
