# SPDX-License-Identifier: Apache-2.0
"""One cluster in a job of its own, followed from the command to its end."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from box import Box

JOB_DIR = "cluster"

STAGES = ("staged", "node up", "image read", "QEMU started", "network joined", "agent speaks", "ready")
"""What comes one after the other; each counts when the last host or guest has got so far."""

_STAGE_OF_EVENT = {
    "node_up": "node up",
    "node_note": "image read",
    "guest_started": "QEMU started",
    "fabric_ready": "network joined",
    "guest_ready": "ready",
}
_POLL_S = 0.005

Event = dict[str, Any]


def run_cluster(
    box: Box, nodes: int, *words: str, environment: str = "", on_event: Callable[[Event], None] = lambda event: None
) -> dict[str, float]:
    """Run `chrun` with these words on so many nodes; return when it had got how far, in seconds after the command.

    `environment` is what stands before the command in a shell. Events are shown to `on_event` as the head writes them.
    The job directory stays. Raises SystemExit with the launcher's words when the cluster fails.
    """
    folder = box.folder / JOB_DIR
    command = f"date +%s.%N >begin; {environment} exec chrun --job job.sh --jobdir {JOB_DIR} {' '.join(words)}"
    seen: list[Event] = []
    with box.start("salloc", "-Q", f"-N{nodes}", f"-n{nodes}", "sh", "-c", command) as process:
        for event in _follow(folder / "run" / "events.jsonl", process):
            seen.append(event)
            on_event(event)
        output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the cluster failed: {output}{errors}")
    staged_unix_s = (folder / "run" / "plan.json").stat().st_mtime
    return _find_stages(seen, staged_unix_s, begin_unix_s=float((box.folder / "begin").read_text()))


def _find_stages(events: list[Event], staged_unix_s: float, begin_unix_s: float) -> dict[str, float]:
    stages = {"staged": staged_unix_s}
    for event in events:
        stage = _STAGE_OF_EVENT.get(event["kind"])
        if event["kind"] == "guest_stage" and event["text"].startswith("kernel "):
            stage = "agent speaks"
        if stage:
            stages[stage] = event["unix_s"]
    return {stage: round(unix_s - begin_unix_s, 3) for stage, unix_s in stages.items()}


def _follow(path: Path, process: subprocess.Popen[str]) -> Iterator[Event]:
    """Yield each event in the file, which may not be there yet, until the process has ended."""
    rest, offset = b"", 0
    while True:
        ended = process.poll() is not None
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(offset)
            rest += file.read()
            offset = file.tell()
        *lines, rest = rest.split(b"\n")
        yield from map(json.loads, lines)
        if ended:
            return
        time.sleep(_POLL_S)
