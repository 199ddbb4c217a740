# SPDX-License-Identifier: Apache-2.0
"""From nothing to a job by `module load chslurm && sbatch chjob.sh`, an upgrade while it runs, and nothing left."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakewheel import make_fake_wheel
from realbox import Box, Job, Result
from sitemodules import INSTALL, MODULEFILES, install, make_argv, set_up

pytestmark = pytest.mark.real

CHJOB = """#!/bin/bash
#SBATCH --nodes=1 --output=batch.out
exec chrun --jobdir c --ram 512M --job wait.sh --dir data "$CHSLURM_IMAGE"
"""
WAIT = "#!/bin/sh\nwhile [ ! -e /ch/data1/go ]; do sleep 0.3; done\n"


@pytest.fixture
def prefix(box: Box) -> Iterator[Path]:
    """A folder for all nodes, with this version in it and the site's image. Afterwards it may not be there."""
    prefix = Path("/opt") / f"chslurm-test-{secrets.token_hex(4)}"
    try:
        install(prefix, f"--wheelhouse={set_up('need_wheelhouse')}")
        (prefix / "image.qcow2").symlink_to(box.image)
        yield prefix
        left = list(prefix.rglob("*")) if prefix.exists() else []
    finally:
        subprocess.run(["rm", "-rf", "--", str(prefix)], check=True)
    assert left == []


def log_in(box: Box, tool: str, script: str) -> Result:
    """Let the user run a script in a login shell on the login node, where the tool is installed."""
    user = ["setpriv", f"--reuid={box.user}", f"--regid={box.user}", "--init-groups"]
    variables = [f"HOME={box.folder.parent}", f"USER={box.user}", f"LOGNAME={box.user}"]
    shell = ["env", "-u", "CHSLURM_IMAGE", "-C", str(box.folder), *variables, "bash", "-l", "-c", script]
    return box(*make_argv(tool, [*user, *shell]), user="root", timeout_s=120)


@pytest.mark.timeout(900)
def test_installed_used_upgraded_removed(box: Box, prefix: Path, tmp_path: Path) -> None:
    box.write("chjob.sh", CHJOB)
    box.write("wait.sh", WAIT)
    assert box("mkdir", "data").returncode == 0
    use = {tool: f"module use {prefix}/{folder}; module load chslurm" for tool, folder in MODULEFILES.items()}

    submitted = log_in(box, "lmod", f"{use['lmod']} && command -v chrun && sbatch --parsable chjob.sh")
    program, _, job_id = submitted.stdout.strip().partition("\n")
    assert job_id.isdecimal(), submitted
    version = Path(program).parent.parent.name
    assert program == f"{prefix}/{version}/bin/chrun"
    job = Job(box, job_id)
    other = log_in(
        box,
        "environment-modules",
        f"{use['environment-modules']} && chrun --version && chrun --dry-run -n1 $CHSLURM_IMAGE",
    )
    assert other.stdout.startswith(f"chrun {version}\n"), other
    assert '"mode": "workstation"' in other.stdout or '"mode":"workstation"' in other.stdout
    job.wait_event("job_started", timeout_s=240)

    later = make_fake_wheel(tmp_path, "99.0")
    install(prefix, "--default", f"--wheel={later}", f"--wheelhouse={tmp_path}")
    assert log_in(box, "lmod", f"{use['lmod']} && chrun").stdout == "chrun 99.0\n"
    argv = [str(INSTALL), f"--prefix={prefix}", "--uninstall", version]
    refused = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert re.search(r"in use on this host by .*chrun \(pid \d+ of \w+\)", refused.stderr)
    assert re.search(r"[ ,]oneguest \(pid \d+ of \w+\)", refused.stderr)

    assert box("touch", "data/go").returncode == 0
    record = job.wait()
    assert (record["JobState"], record["ExitCode"]) == ("COMPLETED", "0:0"), job.output
    (prefix / "image.qcow2").unlink()
    install(prefix, "--uninstall", version)
    install(prefix, "--uninstall")
    assert not prefix.exists()
