# SPDX-License-Identifier: Apache-2.0
"""A host that lacks something on purpose, and what doctor and launcher say there to an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import PACKAGE, PRIVATE_TUN, USER, Namespace

_NO_NAMESPACES = """\
import ctypes, os, sys
ready, go = os.pipe(), os.pipe()
if os.fork() == 0:
    ctypes.CDLL(None).unshare(0x10000000)
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    with open("/proc/sys/user/max_user_namespaces", "w") as setting:
        setting.write("0")
    os.execvp(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
child = open(f"/proc/self/task/{os.getpid()}/children").read().split()[0]
for kind in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{kind}", "w") as map:
        map.write("0 0 4294967295")
os.write(go[1], b"x")
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
"""Runs a command in a user namespace like the one outside of it, in which nobody may make another."""


class BrokenHost(Namespace):
    """A host with a user's home; `break_by` runs shell as root in its mount namespace."""

    def __init__(self) -> None:
        super().__init__(PRIVATE_TUN)
        self.home = Path(tempfile.mkdtemp(prefix="chslurm-test-"))
        self.image = self.home / "image.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.image, "64M"], check=True, timeout=20)
        self.bin = self.home / "bin"
        self.bin.mkdir()
        self.env: dict[str, str] = {}
        self.namespaces = True
        self.cgroup: Path | None = None
        for path in (self.home, self.image, self.bin):
            os.chown(path, USER, USER)
        # nothing of the machine's own KVM, vhost-net and SLURM
        self.sh("for device in /dev/kvm /dev/vhost-net; do [ ! -e $device ] || mount --bind /dev/null $device; done")
        self.sh("for name in srun scontrol; do at=$(command -v $name) || continue; mount --bind /dev/null $at; done")

    def write_program(self, name: str, script: str) -> None:
        """Put a shell script first on the user's PATH."""
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def limit_memory(self, size: str) -> bool:
        """Put all that runs here from now on into a control group of this size; say whether that can be done."""
        line = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), None)
        root, own = (Path("/sys/fs/cgroup/memory"), line) if line else (Path("/sys/fs/cgroup"), "::/")
        group = root / own.rpartition(":")[2].lstrip("/") / f"chslurm-test-{os.getpid()}"
        try:
            group.mkdir()
            self.cgroup = group
            (group / ("memory.limit_in_bytes" if line else "memory.max")).write_text(size)
        except OSError:
            return False
        return True

    def doctor(self, *words: str) -> tuple[int, dict[str, tuple[str, ...]]]:
        """Exit status, and verdict, what was found and remedy of each row."""
        done = self._run("main", "doctor", "--json", *words)
        assert done.stdout, done.stderr
        rows = json.loads(done.stdout)
        parts = ("verdict", "found", "remedy")
        return done.returncode, {
            row["topic"]: tuple(row[part].replace(str(self.home), "~") for part in parts) for row in rows
        }

    def launch(self, *words: str) -> tuple[int, list[str]]:
        """Exit status and all lines, without times; that on the report, which has a test of its own, is left out."""
        done = self._run("chrun", "-n1", "--ram=256M", "--jobdir=c", *words, str(self.image))
        lines = (done.stdout + done.stderr).splitlines()
        shown = [line[21:] if line[:2] == "20" else line for line in lines]
        shown = [line for line in shown if not line.startswith("report: ")]
        return done.returncode, [line.replace(str(self.home), "~").removeprefix("-c: ") for line in shown]

    def _run(self, module: str, *words: str) -> subprocess.CompletedProcess[str]:
        code = f"from chslurm.cli.{module} import main; main()"
        variables = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.home),
            "PYTHONPATH": str(PACKAGE),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.env,
        }
        inside = ["sh", "-c", f'echo $$ >{self.cgroup}/cgroup.procs && exec "$@"', "sh"] if self.cgroup else []
        inside += [] if self.namespaces else [sys.executable, "-c", _NO_NAMESPACES]
        user = ("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups")
        assigned = [f"{name}={value}" for name, value in variables.items()]
        return self.run(
            *inside, *user, "env", "-i", "-C", str(self.home), *assigned, sys.executable, "-c", code, *words
        )

    def end(self) -> None:
        super().end()
        if self.cgroup:
            self.cgroup.rmdir()
        shutil.rmtree(self.home)
