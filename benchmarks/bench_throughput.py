# SPDX-License-Identifier: Apache-2.0
"""TCP from guest to guest on two hosts: through each network that a cluster can have, and through bare TAPs.

Each run boots two guests, one processor each, on two nodes of the box, which share this machine. Bare is what root
makes by hand with nothing else in mind: on each node a bridge with a TAP, and a cable between the two bridges; no
tunnel, no routing, no filters. All kinds are run by turns, and a ratio is that of two runs of one turn.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from box import CODE, Box
from figures import Figure, Goal, make_figure

SECONDS = "10"
GUEST = ("--cores", "1", "--ram", "512M")
KINDS = {
    "rootless, VXLAN": ("batch", "--network", "rootless", "--tunnel", "vxlan"),
    "rootless, WireGuard": ("batch", "--network", "rootless", "--tunnel", "wireguard"),
    "by root, VXLAN": ("site", "--network", "site"),
}
"""The partition of the box, and what the launcher is told."""

GOALS = {name: Goal(0.95 if name.startswith("by root") else 0.5, at_least=True) for name in KINDS}
BARE = "bare TAPs"
_CABLE_MTU = 1500


def measure(box: Box) -> tuple[list[Figure], list[object]]:
    """Run every kind that this kernel has by turns, after one turn that warms up."""
    kinds = {name: words for name, words in KINDS.items() if "wireguard" not in words or _has_wireguard()}
    turns: list[dict[str, Any]] = []
    for number in range(box.repeat + 1):
        turn: dict[str, Any] = {"others_busy": box.settle()}
        turn |= {name: _run_cluster(box, words) for name, words in kinds.items()}
        turn[BARE] = _run_bare(box)
        if number:
            turns.append(turn)
    figures = [make_figure(name, "Mbit/s", (turn[name] for turn in turns)) for name in (*kinds, BARE)]
    for name in kinds:
        ratios = (turn[name] / turn[BARE] for turn in turns)
        figures.append(make_figure(f"{name} / {BARE}", "ratio", ratios, GOALS[name]))
    return figures, list(turns)


def _run_cluster(box: Box, words: tuple[str, ...]) -> float:
    partition, *words = words
    job = ("--jobdir", "cluster", "--job", f"{CODE}/{_script(box)}")
    box.run(
        "salloc",
        "-Q",
        "-N2",
        "-p",
        partition,
        "chrun",
        "-n2",
        *GUEST,
        *words,
        *job,
        box.image,
        "--",
        SECONDS,
        "cluster",
    )
    return _read(box, "cluster/out/1_job.out")


def _run_bare(box: Box) -> float:
    with _plug_bare_taps(box), ExitStack() as stack:
        ends = [
            stack.enter_context(box.start(*_bare(box, "served", "serve"), node="cn001")),
            stack.enter_context(box.start(*_bare(box, "sent", "send", "172.22.1.1"), node="cn002")),
        ]
        for end in ends:
            output, errors = end.communicate(timeout=300)
            if end.returncode:
                raise SystemExit(f"a bare guest failed: {output}{errors}")
    shutil.rmtree(box.folder / "served")
    return _read(box, "sent/out/0_job.out")


def _bare(box: Box, job_dir: str, *role: str) -> tuple[str, ...]:
    """A guest on the TAP that is there: the launcher takes it for that of a site, of which it has the names."""
    job = ("--jobdir", job_dir, "--job", f"{CODE}/{_script(box)}")
    return ("vcluster", "-n1", *GUEST, "--network", "site", *job, box.image, "--", SECONDS, *role)


def _script(box: Box) -> str:
    name = "inside_throughput.py"
    (box.folder / CODE / name).chmod(0o755)
    return name


def _read(box: Box, path: str) -> float:
    value = float(json.loads((box.folder / path).read_text()))
    shutil.rmtree(box.folder / path.split("/", 1)[0])
    return value


@contextmanager
def _plug_bare_taps(box: Box) -> Iterator[None]:
    """A bridge and a TAP of the user's on each of two nodes, and a cable between them."""
    owner = str(box.folder.stat().st_uid)
    nodes = ("cn001", "cn002")
    with ExitStack() as stack:
        cable = "link add cable type veth peer name cable netns chbox-cn002"
        _ip(nodes[0], *cable.split())
        stack.callback(_ip, nodes[0], "link", "delete", "cable")
        for number, node in enumerate(nodes, start=1):
            _ip(node, "link", "add", "chbr0", "type", "bridge")
            stack.callback(_ip, node, "link", "delete", "chbr0")
            _ip(node, "address", "add", "172.22.1.254/32", "dev", "chbr0")
            tap = f"chtap{number}"
            _ip(node, "tuntap", "add", "dev", tap, "mode", "tap", "user", owner, "vnet_hdr")
            stack.callback(_ip, node, "link", "delete", tap)
            for link in (tap, "cable"):
                _ip(node, "link", "set", link, "master", "chbr0", "mtu", str(_CABLE_MTU), "up")
            _ip(node, "link", "set", "chbr0", "up")
        yield


def _ip(node: str, *words: str) -> None:
    subprocess.run(["ip", "-n", f"chbox-{node}", *words], check=True)


def _has_wireguard() -> bool:
    trial = ["unshare", "--net", "ip", "link", "add", "try0", "type", "wireguard"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0
