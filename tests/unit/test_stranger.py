# SPDX-License-Identifier: Apache-2.0
"""What another user of a node sends, and the words for a site that has none to lend."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import chslurm
from chslurm.host.stranger import make_stranger_argv, send_all, send_as

PACKAGE = Path(chslurm.__file__).parent.parent


@pytest.fixture
def heard() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        yield listener


def fake_sudo(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    (folder / "sudo").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{folder}/words\n{script}\n")
    (folder / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "words"


def test_the_command_is_one_that_a_site_can_write_down() -> None:
    assert make_stranger_argv("nobody") == [
        "sudo", "-n", "-u", "nobody", "--", sys.executable, "-I", "-m", "chslurm.host.stranger",
    ]  # fmt: skip


def test_datagrams_go_through_the_other_users_process(
    heard: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = fake_sudo(tmp_path, monkeypatch, f"PYTHONPATH={PACKAGE} exec {sys.executable} -m chslurm.host.stranger")
    assert send_as("nobody", [("127.0.0.1", heard.getsockname()[1], b"x\n y".hex())]) == ""
    assert heard.recv(100) == b"x\n y"
    assert words.read_text().split() == make_stranger_argv("nobody")[1:]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo sudo: a password is required >&2; exit 1", "sudo: a password is required"),
        ("exit 3", "exit status 3"),
        ("exit 0", "exit status 0"),
    ],
)
def test_a_refusal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str) -> None:
    fake_sudo(tmp_path, monkeypatch, script)
    assert send_as("nobody", [("127.0.0.1", 9, "00")]) == f"no process of nobody: {why}"


def test_without_sudo_there_is_no_other_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sudo" in send_as("nobody", [("127.0.0.1", 9, "00")])


def test_what_the_kernel_refuses_is_no_failure(heard: socket.socket) -> None:
    send_all(["240.0.0.1 0 00\n", f"127.0.0.1 {heard.getsockname()[1]} 6869\n"])
    assert heard.recv(100) == b"hi"
