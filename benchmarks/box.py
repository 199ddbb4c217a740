# SPDX-License-Identifier: Apache-2.0
"""What every benchmark is given: the SLURM of `misc/slurm-box`, a folder in its user's home, an image, how often."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import wait_until_quiet

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
PROGRAM = REPO / "misc" / "slurm-box"
CODE = "code"  # our own modules, in the user's folder: the checkout may be where he can't read

NOTHING = "#!/bin/sh\nexit 0\n"
"""The job that guests run: what is measured is over when it starts."""


@dataclass(frozen=True, slots=True)
class Box:
    """The box and how to measure in it. `folder` is the user's; all nodes see it."""

    image: str
    folder: Path
    state: Path  # kept from one time to the next
    repeat: int
    patience_s: float  # how long to wait for a quiet machine before each run; 0: not at all

    @contextmanager
    def start(self, *command: str, node: str = "login") -> Iterator[subprocess.Popen[str]]:
        """Run `command` as the user in `folder` on `node`; asked to end when we give up, waited for in any case."""
        argv = [str(PROGRAM), "on", node, "--", "env", "-C", str(self.folder), *command]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            except BaseException:
                process.terminate()  # salloc gives its nodes back
                raise

    def run(self, *command: str, node: str = "login", timeout_s: float = 300) -> str:
        """Run a command to its end and return what it printed. Raises SystemExit with its words when it fails."""
        with self.start(*command, node=node) as process:
            output, errors = process.communicate(timeout=timeout_s)
        if process.returncode:
            raise SystemExit(f"{shlex.join(command)} ended with {process.returncode}: {output}{errors}")
        return output

    def run_inside(self, script: str, *arguments: str, node: str = "login", timeout_s: float = 300) -> Any:
        """Run one of our scripts with the package's own python as the user, and return the JSON that it printed."""
        return json.loads(self.run("python", f"{CODE}/{script}", *arguments, node=node, timeout_s=timeout_s))

    def write(self, name: str, text: str) -> Path:
        """Write an executable file of the user's."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        owner = self.folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
        return path

    def settle(self) -> float:
        """Wait until the machine is quiet; return the share of it that others use all the same."""
        return wait_until_quiet(self.patience_s)


@contextmanager
def start_box(image: str | None, repeat: int, patience_s: float) -> Iterator[Box]:
    """Bring the box up if need be, with a folder that is gone in the end. A box that was up stays up."""
    was_up = subprocess.run([PROGRAM, "status"], capture_output=True, check=False).returncode == 0
    bring_up()
    settings = {} if image else _read_settings()
    state = _make_state()
    made = subprocess.check_output(
        [PROGRAM, "run", "--", "sh", "-c", 'mktemp -d "$HOME/chslurm-benchmark.XXXXXX"'], text=True
    )
    folder = Path(made.strip())
    try:
        (folder / CODE).mkdir()
        for module in HERE.glob("*.py"):
            shutil.copyfile(module, folder / CODE / module.name)
        yield Box(image or settings["IMAGE"], folder, state, repeat, patience_s)
    finally:
        shutil.rmtree(folder)
        if not was_up:
            subprocess.run([PROGRAM, "down"], check=False)


@contextmanager
def start_no_box(image: str | None, repeat: int, patience_s: float) -> Iterator[Box]:
    """Give what a benchmark is told that needs neither the box nor an image."""
    state = _make_state()
    yield Box(image or "", state, state, repeat, patience_s)


def _make_state() -> Path:
    state = Path(os.environ.get("CHSLURM_STATE", "/var/lib/chslurm-box")) / "benchmarks"
    state.mkdir(parents=True, exist_ok=True)
    return state


def bring_up(*options: str) -> None:
    """Bring the box up with these options of slurm-box; nothing happens when it is up with them already."""
    subprocess.run([PROGRAM, "up", *options], check=True, timeout=600)


def _read_settings() -> dict[str, str]:
    """Return what `slurm-box env` says; it makes image and venv when there are none."""
    text = subprocess.check_output([PROGRAM, "env"], text=True)
    return {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in text.splitlines())}
