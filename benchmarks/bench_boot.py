# SPDX-License-Identifier: Apache-2.0
"""Boot of our image against a stock Debian, by turns: QEMU's exec to a machine that is of use.

Ours is ready when its agent says so: network configured, passthrough mounted, port 22 open. The stock one is when
networking and sshd are up, which a unit of ours tells on its console. Same QEMU, cores, memory and disk type.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench_start import GUEST
from box import HERE, NOTHING, Box
from cluster import JOB_DIR, run_cluster
from figures import Figure, Goal, make_figure

GOAL_RATIO = 5.0
SUITE = "bookworm"


def measure(box: Box) -> tuple[list[Figure], list[object]]:
    """Build the stock image if there is none, then boot both by turns, once to warm up."""
    stock = build_stock_image(box.state)
    box.write("job.sh", NOTHING)
    run_cluster(box, 1, *GUEST, box.image)  # for its plan; its disks are made anew
    runs: list[dict[str, Any]] = []
    for _ in range(box.repeat + 1):
        busy = [box.settle()]
        theirs = box.run_inside("inside_stock.py", str(stock), node="cn001")
        busy.append(box.settle())
        ours = box.run_inside("inside_bare.py", f"{JOB_DIR}/run/plan.json", node="cn001")
        del ours["argv"]
        runs.append({"others_busy": busy, "stock": theirs, "ours": ours})
    del runs[0]
    ours_s, stock_s = ([run[kind]["ready_s"] for run in runs] for kind in ("ours", "stock"))
    ratios = (stock / ours for stock, ours in zip(stock_s, ours_s, strict=True))
    cpu = (run["stock"]["qemu_cpu_s"] / run["ours"]["qemu_cpu_s"][0] for run in runs)
    return [
        make_figure("boot, stock Debian", "s", stock_s),
        make_figure("boot, our image", "s", ours_s),
        make_figure("boot, stock / ours", "ratio", ratios, Goal(GOAL_RATIO, at_least=True)),
        make_figure("QEMU CPU, stock / ours", "ratio", cpu),
    ], list(runs)


def build_stock_image(state: Path) -> Path:
    """Return the folder with disk, kernel and initramfs of a stock Debian; builds them once, in some minutes."""
    stock = state / f"stock-{SUITE}"
    if stock.exists():
        return stock
    work = state / "stock.new"
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "tree"
    work.mkdir(mode=0o755)
    # fmt: off
    subprocess.run([
        "unshare", "--mount",  # mounts of the build end with it
        "mmdebstrap", "--quiet", "--mode=root", "--variant=important",
        "--include=linux-image-amd64,openssh-server",
        f"--customize-hook=sh {HERE / 'stock-setup.sh'} \"$1\"",
        SUITE, tree,
    ], check=True, timeout=1800)
    subprocess.run(["mkfs.ext4", "-q", "-L", "root", "-d", tree, work / "disk.raw", "4G"], check=True, timeout=600)
    # fmt: on
    for name, pattern in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        found = next((tree / "boot").glob(pattern))
        shutil.copyfile(found, work / name)  # with a mode that the user may read
    shutil.rmtree(tree)
    work.rename(stock)
    return stock
