# SPDX-License-Identifier: Apache-2.0
"""A commit that is killed at any moment leaves the image wholly old or wholly new, and can be made again.

CHSLURM_KILLS says how often, `misc/test --long` more often; its seed is printed, so that a failure can be had again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kept import Kept, digest, make_kept, run

from chslurm.host.history import read_history
from chslurm.host.place import read_image
from chslurm.plan import Plan, plan_to_json

KILLS = int(os.environ.get("CHSLURM_KILLS", "12"))
COMMIT = [sys.executable, "-m", "chslurm.cli.main", "image", "commit", "charlie"]


@dataclass
class Rig:
    """An image to be committed to again and again; the plan is renewed, since an image that was put back is another."""

    kept: Kept

    def save(self) -> None:
        for path in (self.kept.image, self.kept.overlay):
            run("cp", path, path.parent / f"saved-{path.name}")

    def put_back(self) -> None:
        for path in (self.kept.image, self.kept.overlay):
            run("cp", path.parent / f"saved-{path.name}", path)
        plan = replace(self.kept.plan, image=read_image(self.kept.image))
        Path(self.kept.job_dir.plan).write_bytes(plan_to_json(plan))
        self.kept.end()

    def start(self) -> subprocess.Popen[str]:
        """Start a commit as the leader of its own process group."""
        pipe = subprocess.PIPE
        return subprocess.Popen(COMMIT, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def time(self) -> list[float]:
        """How long a whole commit takes, and what is left of it after each of its first two words."""
        moments_s = [time.monotonic()]
        with self.start() as process:
            assert process.stdout is not None
            output = ""
            for _ in range(2):
                output += process.stdout.readline()
                moments_s.append(time.monotonic())
            output += process.stdout.read()
        assert process.returncode == 0, output
        return [time.monotonic() - moment_s for moment_s in moments_s]

    def kill(self, words: int, after_s: float) -> bool:
        """Kill a commit with all its programs, so long after so many words; say whether it had ended before."""
        with self.start() as process:
            assert process.stdout is not None
            for _ in range(words):
                process.stdout.readline()
            time.sleep(after_s)
            ended = process.poll() is not None
            if not ended:
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.read()
        if ended:
            assert process.returncode == 0
        return ended


@pytest.mark.timeout(60 + 4 * KILLS)
@pytest.mark.parametrize("image_format", ["qcow2", pytest.param("raw", marks=pytest.mark.long)])
def test_killed_commits(
    tmp_path: Path, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, image_format: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rig = Rig(make_kept(tmp_path, plan_of, image_format=image_format, boot=True, mib=16))
    kept, seed = rig.kept, random.randrange(1 << 32)
    old, new = digest(kept.image, image_format), digest(kept.overlay, "qcow2")
    assert old != new
    rig.save()
    left_s = rig.time()  # the words are the two commands: the second is told just before the image is replaced
    dice, found = random.Random(seed), Counter[str]()
    rig.put_back()
    for number in range(KILLS):
        words = number % 3
        ended = rig.kill(words, dice.uniform(0, left_s[words]))
        case = f"kill {number} of seed {seed}"
        state = {old: "old", new: "new"}.get(digest(kept.image, image_format), "damaged")
        found["ended before" if ended else state] += 1
        assert state in ("old", "new"), case
        run("qemu-img", "check", "-q", "-f", "qcow2", kept.image) if image_format == "qcow2" else None
        entries = read_history(kept.image, image_format)
        assert entries is not None, case
        assert len(entries) == (state == "new"), f"{case}: the history tells the same"
        if state == "old":
            assert digest(kept.overlay, "qcow2") == new, case
        else:
            rig.put_back()
    print(f"\n{KILLS} kills, {image_format}, seed {seed}: {dict(found)}")
    assert found["old"], "some were killed early enough"
    rig.time()
    assert digest(kept.image, image_format) == new
    hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden == [], "the last one took away what the killed ones left"
