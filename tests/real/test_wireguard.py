# SPDX-License-Identifier: Apache-2.0
"""WireGuard between two hosts, and between nodes of a job whose network root makes, in one guest.

Debian's kernel has it, this machine's perhaps not.

The guest gets the package, the tests and the programs that a host needs but a guest has not, as this machine has them
(both are Debian 12), and runs `test_wireguard.py` and `test_wireguard_jobs.py` of `tests/kernel`, whose hosts are
namespaces there.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from realbox import Box

pytestmark = pytest.mark.real

TESTS = Path(__file__).parent.parent
HOSTS, JOBS = "test_wireguard.py", "test_wireguard_jobs.py"
PROGRAMS = ("/usr/sbin/nft", "/usr/bin/pasta")
NOT_NEEDED = (
    *("mypy*", "*mypyc*", "ruff*", "hypothesis*", "_hypothesis*", "importlinter", "grimp", "xdist", "pytest_xdist*"),
    *("pip", "setuptools", "pkg_resources", "PIL", "pillow*", "mkdocs*", "jinja2", "tzdata", "ast_serialize"),
)

RUN = """#!/bin/bash
exec 2>&1
set -e
[ "$(id -u)" = 0 ] || exec sudo "$0" "$@"
tar -C / -xf /ch/data1/programs.tar
ldconfig
modprobe tun
mkdir -p /dev/net /tmp/run/packages
tar -C /tmp/run/packages -xf /ch/data1/packages.tar  # with what has been compiled: that takes long under emulation
tar -C /tmp/run -xf /ch/data1/tests.tar
chmod -R a+rX /tmp/run
cd /tmp/run
export PYTHONPATH=/tmp/run/packages
modinfo -F description wireguard
# the rest has been tried where the tests run that need no guest
try() { # FILE TESTS
    python3 -m pytest --import-mode=importlib -p no:cacheprovider --timeout=400 -v "tests/kernel/$1" -k "$2"
}
while [ $# != 0 ]; do
    try "$1" "$2" >"$2.out" || touch failed &
    shift 2
done
wait
cat -- *.out
[ ! -e failed ]
"""


def pack_programs(archive: Path) -> None:
    """Pack what a host has and a guest has not, with its libraries."""
    said = "".join(
        subprocess.run(["ldd", name], capture_output=True, text=True, check=True).stdout for name in PROGRAMS
    )
    libraries = {path for path in re.findall(r"/\S+", said) if not re.search(r"/(libc|libm|ld-linux\S*)\.so", path)}
    argv = ["tar", "--create", "--dereference", "--absolute-names", "--transform=s,^/lib/,usr/local/lib/,"]
    subprocess.run([*argv, f"--file={archive}", *PROGRAMS, *sorted(libraries)], check=True)


def pack(archive: Path, folder: Path, *names: str) -> None:
    exclude = [f"--exclude=./{name}" for name in NOT_NEEDED]
    subprocess.run(["tar", "--create", f"--file={archive}", f"--directory={folder}", *exclude, *names], check=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "tests",
    [
        pytest.param([HOSTS, "wireguard]"], id="hosts"),
        pytest.param(
            [JOBS, "jobs_joined", HOSTS, "another_key", JOBS, "another_secret"], id="jobs", marks=pytest.mark.long
        ),
    ],
)
def test_hosts_joined_by_wireguard(box: Box, tests: list[str]) -> None:
    """`tests`: file and expression of each."""
    data = box.folder / "data"
    data.mkdir()
    pack_programs(data / "programs.tar")
    pack(data / "packages.tar", Path(sysconfig.get_path("platlib")), ".")
    scripts = ("misc/slurm-prolog", "misc/slurm-prolog-check")
    pack(data / "tests.tar", TESTS.parent, "pyproject.toml", "tests/kernel", *scripts)
    user = pwd.getpwnam(box.user)
    for path in (data, *data.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    script = box.write("job.sh", RUN)
    command = [
        "vcluster",
        "-n1",
        "--ram=1G",
        "--cores=2",
        "--jobdir=c",
        "--dir=data",
        f"--job={script}",
        box.image,
        "--",
    ]
    done = box(*command, *tests, timeout_s=880)
    output = (box.folder / "c" / "out" / "0_job.out").read_text()
    assert done.returncode == 0, output + done.stdout + done.stderr
    assert "skipped" not in output, output
    assert len(re.findall(r"^=+ 1 passed, \d deselected in", output, re.M)) == len(tests) / 2, output
