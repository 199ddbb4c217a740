# SPDX-License-Identifier: Apache-2.0
"""A guest of one instruction, to see whether QEMU, and KVM, truly run: it writes a byte to a port, and QEMU ends.

QEMU is given all that a launch gives it, but no network card: sandbox, disks, ports, passthrough.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import PurePath

from chslurm.guest import Disk, Machine, Passthrough, make_qemu_argv
from chslurm.host.process import Completed, run
from chslurm.plan import Accelerator

_FIRMWARE_BYTES = 64 << 10
_RESET_VECTOR = 16  # bytes before the end of the firmware, where a processor starts
_PORT = 0xF4
_CODE = bytes([0xB0, 42, 0xE6, _PORT, 0xF4])  # mov al,42; out 0xf4,al; hlt
_DEBUG_EXIT = ("-device", f"isa-debug-exit,iobase={_PORT:#x},iosize=1")
"""Ends QEMU with twice the byte and one: 85."""

_NOWHERE = PurePath(os.devnull)
_TIMEOUT_S = 3.0
"""Two may run one after the other, and all has to be said before nobody listens any more."""


def try_guest(program: str, accelerator: Accelerator, *, passthrough: bool = True) -> Completed:
    """Run the guest and return what came of QEMU. Raises ProcessError when it can't be started, or does not end."""
    with ExitStack() as stack:
        firmware = _make_firmware(stack)
        theirs, ours = zip(*(socket.socketpair() for _ in range(3)), strict=True)
        for end in (*theirs, *ours):
            stack.enter_context(end)
        path = f"/proc/self/fd/{firmware}"
        root, temporary = (Disk(path, fd=_reopen(stack, path), format="raw", read_only=True) for _ in range(2))
        qmp, control, console = (end.fileno() for end in theirs)
        machine = Machine(
            name="checkup",
            mac="",
            cores=1,
            ram_mib=32,
            accelerator=accelerator,
            firmware=path,
            kernel=None,
            root=root,
            temporary=temporary,
            shares=(Passthrough("meta", "/", read_only=True),) if passthrough else (),
            tap_fds=(),
            qmp_fd=qmp,
            control_fd=control,
            console_fd=console,
            job_output=_NOWHERE,
            job_errors=_NOWHERE,
        )
        argv = [*make_qemu_argv(machine, program), *_DEBUG_EXIT]
        fds = [firmware, *machine.fds]
        done = run(argv, timeout_s=_TIMEOUT_S, check=False, pass_fds=fds, die_with_parent=True)
    return replace(done, stderr=_last_words(done.stderr, program))


def _make_firmware(stack: ExitStack) -> int:
    fd = os.memfd_create("chslurm-firmware", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    os.pwrite(fd, _CODE.rjust(_FIRMWARE_BYTES - _RESET_VECTOR + len(_CODE), b"\0").ljust(_FIRMWARE_BYTES, b"\0"), 0)
    return fd


def _reopen(stack: ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _last_words(text: str, program: str) -> str:
    """What QEMU said last, without its name."""
    lines = text.strip().splitlines() or ["it said nothing"]
    return lines[-1].removeprefix(f"{program}: ").removeprefix(f"{PurePath(program).name}: ")
