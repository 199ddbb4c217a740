# SPDX-License-Identifier: Apache-2.0
"""The login node of the box as a workstation that is the reader's own: his home is where it should be, and he is root.

What both change there, in /etc, /opt and the user's home, is seen by them alone and gone afterwards: mounts of a
namespace of theirs.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from realbox import Box

_MOUNTS = """
set -e
mount -t tmpfs -o mode=755 none /opt
mkdir /opt/chslurm /opt/.changed /opt/.work
mount --bind {venv} /opt/chslurm
mount -t overlay -o lowerdir=/etc,upperdir=/opt/.changed,workdir=/opt/.work none /etc
mount --bind {home} {real_home}
echo up
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class Workstation:
    """A process that owns the namespace."""

    pid: int
    homes: dict[str, str]  # by user
    path: str  # of the user

    def make_shell(self, user: str) -> list[str]:
        """Return the command that is a shell of a user there."""
        root = user == "root"
        settings = {
            "HOME": self.homes[user],
            "USER": user,
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin" if root else self.path,
            "PS1": "# " if root else "$ ",
            "LANG": "C.UTF-8",
            "TERM": "screen",
        }
        words = [f"{name}={value}" for name, value in settings.items()]
        enter = ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", f"--wdns={self.homes[user]}"]
        who = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--inh-caps=-all"]
        return [*enter, *who, "env", "-i", *words, "bash", "--norc"]


@contextmanager
def start_workstation(box: Box, home: Path) -> Iterator[Workstation]:
    """The workstation of the box's user, whose home is `home` there. No network is left in the end."""
    real_home, path = box("sh", "-c", 'echo ~; echo "$PATH"').stdout.split()
    venv = Path(box("sh", "-c", "command -v chslurm").stdout.strip()).parent.parent
    script = _MOUNTS.format(venv=shlex.quote(str(venv)), home=shlex.quote(str(home)), real_home=real_home)
    argv = [box.program, "on", "login", "--user", "root", "--", "unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout
            assert owner.stdout.readline() == "up\n"
            yield Workstation(owner.pid, {box.user: real_home, "root": "/root"}, path)
        finally:
            box("chslurm", "net", "workstation", "stop", user="root")
            owner.kill()
