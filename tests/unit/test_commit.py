# SPDX-License-Identifier: Apache-2.0
"""What may become part of an image, and by which commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath

import pytest

from chslurm.commit import Use, choose_guest, find_conflict, find_objection, shown_path
from chslurm.errors import ChslurmError, UsageError
from chslurm.flatten import (
    check_room,
    is_aside_name,
    make_aside_name,
    make_flatten_argv,
    make_measure_argv,
    make_source,
    parse_image_info,
)
from chslurm.phases import Cause
from chslurm.plan import Image, Layer, Plan
from chslurm.report import CommitReport, GuestReport, Summary, parse_summary, render_summary, summary_to_json
from chslurm.report import with_commit as end_with

PLAIN = {
    "virtual-size": 1 << 30,
    "actual-size": 1000,
    "cluster-size": 65536,
    "format-specific": {"type": "qcow2", "data": {"compat": "1.1", "compression-type": "zlib", "extended-l2": False}},
}
INFO = parse_image_info(json.dumps(PLAIN))
LAYER = Layer("/images/a.qcow2", "qcow2", 1, 2, 3, 4)


def summary_of(cause: Cause, *guests: GuestReport, exit_status: int = 0) -> Summary:
    return Summary("0" * 16, cause, exit_status, "", 1.0, guests, ())


def guest(number: int = 0, *, status: int | None = None, clean: bool = True, end: str = "") -> GuestReport:
    return GuestReport(number, "cn001", "gone", status, clean, end)


@pytest.mark.parametrize(
    ("cause", "report", "objection"),
    [
        (Cause.JOB, guest(status=0), None),
        (Cause.JOB, guest(status=3), "its job ended with 3"),
        (Cause.JOB, guest(status=None), "its job had not ended"),
        (
            Cause.JOB,
            guest(status=0, clean=False, end="kernel panic"),
            "it did not shut down: kernel panic",
        ),
        (Cause.JOB, guest(status=0, clean=False), "it did not shut down: gone"),
        (Cause.LOST, guest(status=0), "the cluster did not come to its end: lost"),
        (Cause.CANCELLED, guest(status=0), "the cluster did not come to its end: cancelled"),
        (Cause.TIME_LIMIT, guest(status=0), "the cluster did not come to its end: time limit"),
        (Cause.INTERRUPTED, guest(), "the cluster did not come to its end: interrupted"),
        (Cause.MACHINERY, guest(), "the cluster did not come to its end: machinery"),
    ],
)
def test_batch(plan_of: Callable[..., Plan], cause: Cause, report: GuestReport, objection: str | None) -> None:
    assert find_objection(plan_of(1), summary_of(cause, report), 0) == objection


def test_interactive_any_guest_that_shut_itself_down(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(2, interactive=True)
    ended = summary_of(Cause.SHUTDOWN, guest(0), guest(1, clean=False, end="quit on order"))
    assert find_objection(plan, ended, 0) is None
    assert find_objection(plan, ended, 1) == "it did not shut down: quit on order"


@pytest.mark.parametrize(
    ("use", "shared", "conflict"),
    [
        (Use(written=False, read=False), True, None),
        (Use(written=False, read=True), False, None),
        (Use(written=False, read=True), True, "guests run from it, and on this file system they would lose it"),
        (Use(written=True, read=True), False, "a program is writing to it"),
    ],
)
def test_users_of_the_image(use: Use, shared: bool, conflict: str | None) -> None:
    assert find_conflict(use, shared=shared) == conflict


def test_the_command_says_the_format_and_what_differs_from_the_defaults() -> None:
    source = make_source("./run/0.overlay.qcow2", Image((LAYER,)), locking=True)
    image = Image((LAYER,))
    start = ["qemu-img", "convert", "-f", "qcow2", "./run/0.overlay.qcow2", "-O", "qcow2"]
    assert make_flatten_argv(source, image, INFO, "x", compress=False) == [*start, "x"]
    odd = json.loads(json.dumps(PLAIN)) | {"cluster-size": 4096}
    odd["format-specific"]["data"] = {"compat": "0.10", "compression-type": "zstd", "extended-l2": True}
    argv = make_flatten_argv(source, image, parse_image_info(json.dumps(odd)), "x", compress=True)
    assert argv[2] == "-c"
    assert argv[-3:] == ["-o", "compat=0.10,cluster_size=4096,compression_type=zstd,extended_l2=on", "x"]
    raw = Image((replace(LAYER, format="raw"),))
    assert make_flatten_argv(source, raw, parse_image_info('{"virtual-size": 1}'), "x", compress=False)[-3:] == [
        "-O",
        "raw",
        "x",
    ]
    assert make_measure_argv(source, raw)[-2:] == ["-O", "raw"]


def test_without_locks_every_layer_is_named() -> None:
    image = Image((LAYER, Layer("/images/base,.raw", "raw", 1, 2, 3, 4)))
    (word,) = make_source("/j/0.overlay.qcow2", image, locking=False)
    top = json.loads(word.removeprefix("json:"))
    found = []
    node = top
    while node:
        found.append((node["driver"], node["file"]["filename"], node["file"]["locking"]))
        node = node.get("backing")
    assert found == [
        ("qcow2", "/j/0.overlay.qcow2", "off"),
        ("qcow2", "/images/a.qcow2", "off"),
        ("raw", "/images/base,.raw", "off"),
    ]
    assert top["backing"]["backing"].keys() == {"driver", "file"}
    (alone,) = make_source("/j/0.overlay.qcow2", Image((LAYER,)), locking=False)
    assert json.loads(alone[5:])["backing"]["backing"] is None, "whatever its header says"


def test_names_of_new_files_belong_to_their_image() -> None:
    image = PurePath("/images/image.qcow2")
    name = make_aside_name(image, "0123abcd")
    assert name.startswith(".")
    assert is_aside_name(name, image)
    assert not is_aside_name(name, PurePath("/images/other.qcow2"))
    assert not is_aside_name(f"{name}.old", image)
    assert not is_aside_name("image.qcow2", image)
    assert len(make_aside_name(PurePath("x" * 255), "0123abcd")) < 50


def test_room() -> None:
    check_room(1 << 20, 1 << 20, "/images", "can't", "make room")
    with pytest.raises(ChslurmError, match="can't: too little space in /images: 3 GiB needed, 5 MiB free; make room"):
        check_room((3 << 30) - 1, 5 << 20, "/images", "can't", "make room")


@pytest.mark.parametrize(
    ("path", "cwd", "shown"),
    [
        ("/data/vm/charlie/run/0.overlay.qcow2", "/data/vm", "./charlie/run/0.overlay.qcow2"),
        ("/data/vm/x", "/data/other", "/data/vm/x"),
        ("/data/vm/x", None, "/data/vm/x"),
    ],
)
def test_paths_are_shown_from_here(path: str, cwd: str | None, shown: str) -> None:
    assert shown_path(PurePath(path), None if cwd is None else PurePath(cwd)) == shown


def test_which_guest() -> None:
    assert choose_guest([0, 1], 1, 0, "j") == 1
    assert choose_guest([0, 1], None, 0, "j") == 0
    assert choose_guest([2], None, None, "j") == 2
    with pytest.raises(UsageError, match=r"j: which guest\?; overlays are there of guests: 0, 1"):
        choose_guest([0, 1], None, None, "j")
    with pytest.raises(UsageError, match="j: no overlay of guest 5; overlays are there of guests: none"):
        choose_guest([], 5, None, "j")


def test_a_commit_that_was_made_changes_nothing_else(plan_of: Callable[..., Plan]) -> None:
    ended = summary_of(Cause.JOB, guest(status=0))
    done = end_with(ended, CommitReport(0, "", LAYER, replace(LAYER, inode=5)))
    assert (done.cause, done.exit_status, done.text) == (Cause.JOB, 0, "")
    assert parse_summary(summary_to_json(done), replace(plan_of(1), cluster_id=done.cluster_id)) == done


def test_a_commit_that_failed_is_the_cause_when_nothing_else_was() -> None:
    failed = CommitReport(0, "can't commit", LAYER)
    ended = end_with(summary_of(Cause.SHUTDOWN, guest()), failed)
    assert (ended.cause, ended.exit_status, ended.text) == (Cause.COMMIT, 70, "can't commit")
    assert render_summary(ended)[-2:] == ["can't commit", "cluster ended after 1.0 s: commit, exit status 70"]
    before = summary_of(Cause.JOB, guest(status=7), exit_status=7)
    ended = end_with(before, failed)
    assert (ended.cause, ended.exit_status) == (Cause.JOB, 7)
    assert "can't commit" in render_summary(ended)
    stopped = end_with(summary_of(Cause.SHUTDOWN, guest()), failed, Cause.INTERRUPTED)
    assert (stopped.cause, stopped.exit_status) == (Cause.INTERRUPTED, 130)
