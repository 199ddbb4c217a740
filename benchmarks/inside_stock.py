# SPDX-License-Identifier: Apache-2.0
"""Runs in the box: boot the stock image once, throw away what it writes, and print when it was ready.

Argument: FOLDER with kernel, initrd and disk.raw
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from machine import read_cpu_s

from chslurm.host.accel import choose_accelerator
from chslurm.host.process import spawn
from chslurm.plan import Accelerator

READY = b"benchmark: ready"

folder = Path(sys.argv[1])
kvm = choose_accelerator(Accelerator.AUTO)[0] is Accelerator.KVM
# fmt: off
argv = [
    "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
    "-machine", "q35", "-accel", "kvm" if kvm else "tcg,thread=multi", "-cpu", "host" if kvm else "max",
    "-smp", "1", "-m", "1024M",
    "-kernel", folder / "kernel", "-initrd", folder / "initrd", "-append", "root=/dev/vda ro console=ttyS0",
    "-drive", f"file={folder / 'disk.raw'},format=raw,if=virtio,snapshot=on",
    "-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,addr=3",
    "-serial", "stdio",
]
# fmt: on
begin_s = time.monotonic()
process = spawn(argv, stdout=subprocess.PIPE)
assert process.stdout
said = b""
for line in process.stdout:
    said += line
    if READY in line:
        break
else:
    raise SystemExit(f"the stock image did not boot: {said[-2000:].decode(errors='replace')}")
ready_s = time.monotonic() - begin_s
cpu_s = read_cpu_s(process.pid)
process.kill()
process.wait()
print(json.dumps({"ready_s": round(ready_s, 3), "qemu_cpu_s": cpu_s}))
