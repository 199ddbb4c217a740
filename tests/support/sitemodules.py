# SPDX-License-Identifier: Apache-2.0
"""The real Lmod and the real Environment Modules, as Debian installs them, seen by one shell alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

REPO = Path(__file__).parent.parent.parent
INSTALL = REPO / "misc" / "install"
MODULEFILES = {"lmod": "modulefiles", "environment-modules": "modulefiles-tcl"}
"""Debian's package -> the folder of module files for it."""

_OVER = """
exec 3</etc/hosts # a node of slurm-box has its own
for folder in usr etc; do
    mount -t overlay overlay -o "lowerdir=$1/$folder:/$folder" "/$folder" || exit
done
mount --no-canonicalize --bind /proc/self/fd/3 /etc/hosts || exit
shift
exec "$@" 3<&-
"""


def set_up(function: str, *words: str) -> str:
    """Call a function of the set-up, which prints a folder that is there then."""
    script = f". '{REPO}/misc/lib/common.sh'; . '{REPO}/misc/lib/setup.sh'; {function} \"$@\""
    done = subprocess.run(["bash", "-c", script, "test", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def make_argv(package: str, command: list[str]) -> list[str]:
    """Return the command line, for root, that runs a command as if the package were installed."""
    return ["unshare", "--mount", "sh", "-c", _OVER, "sh", set_up("need_unpacked", package), *command]


def install(prefix: Path, *words: str) -> str:
    """Call misc/install and return what it says."""
    argv = [str(INSTALL), f"--prefix={prefix}", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
