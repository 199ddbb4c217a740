# SPDX-License-Identifier: Apache-2.0
"""Runs in the box: start a command N times and print how long each took, its CPU seconds and its peak memory.

Arguments: N COMMAND [ARGUMENT]...
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time


def time_once(argv: list[str]) -> dict[str, float]:
    """Run a command with its output thrown away. Raises SystemExit when it fails."""
    program = shutil.which(argv[0])
    assert program, argv[0]
    null = os.open(os.devnull, os.O_RDWR)
    redirect = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
    start_s = time.perf_counter()
    pid = os.posix_spawn(program, argv, os.environ, file_actions=redirect)
    _, status, usage = os.wait4(pid, 0)
    elapsed_s = time.perf_counter() - start_s
    os.close(null)
    if status:
        raise SystemExit(f"{argv} ended with {os.waitstatus_to_exitcode(status)}")
    return {"elapsed_s": elapsed_s, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


print(json.dumps([time_once(sys.argv[2:]) for _ in range(int(sys.argv[1]))]))
