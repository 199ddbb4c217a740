# SPDX-License-Identifier: Apache-2.0
"""The box as its ordinary users use it, and clusters of theirs.

`misc/test` brings the box up, builds the image, and names both in CHSLURM_BOX and CHSLURM_IMAGE.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Result = subprocess.CompletedProcess[str]

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # what runs under nohup hears of no hang-up, nor does what it starts


_WORKERS = {"gw0": "chother", "gw1": "chthird"}
"""Whose the tests of each of pytest's workers are. chuser is the reader of the documentation, too, in one of them."""


def is_shared() -> bool:
    """Whether other tests use the box at the same time."""
    return "PYTEST_XDIST_WORKER" in os.environ


def choose_user() -> str:
    """Return the ordinary user whom the tests of this process work as."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    return _WORKERS[worker] if worker else os.environ.get("CHSLURM_USER", "chuser")


@dataclass(frozen=True)
class Box:
    """The SLURM of this machine, as one of its ordinary users uses it."""

    program: str
    image: str
    user: str
    folder: Path  # in the user's home, which all nodes share; gone after the test

    def __call__(self, *command: str, node: str = "login", timeout_s: float = 240, user: str | None = None) -> Result:
        """Run a command as the user, in `folder`, and return what came of it."""
        argv = [self.program, "on", node, "--user", user or self.user, "--", *self._here(command)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)

    def start(self, *command: str, node: str = "login") -> subprocess.Popen[str]:
        """Start a command as the user, with pipes."""
        argv = [self.program, "on", node, "--user", self.user, "--", *self._here(command)]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def _here(self, command: tuple[str, ...]) -> list[str]:
        return ["env", "-C", str(self.folder), f"CHSLURM_IMAGE={self.image}", *command]

    def write(self, name: str, text: str, mode: int = 0o755) -> str:
        """Write a file of the user's and return its path."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, *self._ids())
        return str(path)

    def sbatch(self, *launcher: str, nodes: int = 1, options: tuple[str, ...] = ()) -> Job:
        """Submit a batch job that becomes the launcher."""
        script = self.write("job.sbatch", f"#!/bin/bash\nexec {shlex.join(launcher)}\n")
        done = self("sbatch", "--parsable", f"--nodes={nodes}", "--output=batch.out", *options, script)
        assert done.returncode == 0, done.stderr
        return Job(self, done.stdout.strip())

    def residue(self) -> str:
        """What is left on the machine, empty when nothing is; of this user when others use the box beside us."""
        argv = [self.program, "residue", *(["--user", self.user] if is_shared() else [])]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return "" if done.returncode == 0 else done.stdout

    def _ids(self) -> tuple[int, int]:
        found = self.folder.stat()
        return found.st_uid, found.st_gid


@contextmanager
def start_box(program: str, user: str) -> Iterator[Box]:
    """The box with an empty folder of the user's. Afterwards nothing may be left on any node."""
    make = [program, "run", "--user", user, "--", "sh", "-c", "d=$(mktemp -d ~/test.XXXXXX) && echo $d"]
    folder = subprocess.run(make, capture_output=True, text=True, check=True).stdout.strip()
    box = Box(program, os.environ["CHSLURM_IMAGE"], user, Path(folder))
    try:
        yield box
    finally:
        if box("squeue", "--me", "--noheader").stdout:  # what a test has left that failed
            box("scancel", "--me")
            wait_for(lambda: not box("squeue", "--me", "--noheader").stdout, 60, lambda: "jobs can't be cancelled")
    left = box.residue()
    subprocess.run(["rm", "-r", "--", folder], check=True)
    assert not left, left


@dataclass(frozen=True)
class Job:
    """A batch job and the cluster in it, whose job directory is `c` in the user's folder."""

    box: Box
    id: str

    @property
    def dir(self) -> Path:
        return self.box.folder / "c"

    @property
    def output(self) -> str:
        path = self.box.folder / "batch.out"
        return path.read_text() if path.exists() else ""

    def record(self) -> dict[str, str]:
        """SLURM's own record of the job."""
        text = self.box("scontrol", "-o", "show", "job", self.id).stdout
        return dict(word.partition("=")[::2] for word in text.split())

    def wait(self, timeout_s: float = 240) -> dict[str, str]:
        """Wait for the end of the job and return its record."""
        record: dict[str, str] = {}

        def ended() -> bool:
            record.update(self.record())
            return record.get("JobState", "PENDING") not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")

        wait_for(ended, timeout_s, lambda: f"job {self.id} did not end: {self.output}", pause_s=0.5)
        return record

    def events(self) -> list[dict[str, Any]]:
        path = self.dir / "run" / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_event(self, kind: str, guest: int = 0, timeout_s: float = 120) -> dict[str, Any]:
        """Wait until something has happened to a guest, and return the event."""

        def find() -> list[dict[str, Any]]:
            return [e for e in self.events() if e["kind"] == kind and e.get("guest", -1) in (guest, -1)]

        wait_for(find, timeout_s, lambda: f"no {kind}: {self.output}")
        return find()[0]

    def summary(self, folder: Path | None = None) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(((folder or self.dir) / "run" / "summary.json").read_text())
        return summary


def wait_for(look: Callable[[], object], timeout_s: float, complain: Callable[[], str], pause_s: float = 0.2) -> None:
    """Look again and again until there is something to be seen."""
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            pytest.fail(complain())
        time.sleep(pause_s)
