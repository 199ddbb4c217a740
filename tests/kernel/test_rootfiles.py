# SPDX-License-Identifier: Apache-2.0
"""Root's folder of state, which those who come and go at the same time make and give away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TAKE_TURNS = """if True:
    import sys
    from pathlib import Path
    from chslurm.host.rootfiles import lock_state
    folder, count = Path(sys.argv[1]), Path(sys.argv[2])
    for _ in range(500):
        with lock_state(folder):
            count.write_text(str(int(count.read_text()) + 1))
"""


def test_who_gives_the_folder_away_disturbs_nobody(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    argv = [sys.executable, "-c", TAKE_TURNS, str(tmp_path / "state"), str(count)]
    running = [subprocess.Popen(argv) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert count.read_text() == "2000"
    assert not (tmp_path / "state").exists()
