# SPDX-License-Identifier: Apache-2.0
"""Windows of QEMU on the user's display: whether this QEMU can open one, and has a place to."""

from __future__ import annotations

from collections.abc import Mapping

from chslurm.errors import ChslurmError
from chslurm.host.process import run
from chslurm.plan import Mode

_DISPLAYS = ("sdl", "gtk")
"""The first needs less of a desktop; of what the second does at its start, some releases start programs."""


def find_display(qemu: str, mode: Mode, environment: Mapping[str, str]) -> str:
    """Return the name of the display with which `qemu` opens windows. Raises ChslurmError when there will be none."""
    check_display(mode, environment)
    offered = run([qemu, "-display", "help"], check=False).stdout.split()
    found = next((name for name in _DISPLAYS if name in offered), None)
    if found is None:
        hint = "install qemu-system-gui (Debian, Ubuntu), qemu-ui-gtk (Fedora, SUSE), where guests run"
        raise ChslurmError(f"can't open windows for --vga: {qemu} has neither of {' and '.join(_DISPLAYS)}", hint=hint)
    return found


def check_display(mode: Mode, environment: Mapping[str, str]) -> None:
    """Raise ChslurmError when there is no place for windows."""
    if not environment.get("DISPLAY") and (mode is Mode.CLUSTER or not environment.get("WAYLAND_DISPLAY")):
        if mode is Mode.CLUSTER:
            hint = "allocate with `salloc --x11` from a terminal that has a display, which the site has to allow"
            raise ChslurmError("can't open windows for --vga: DISPLAY is not set in this job", hint=hint)
        hint = "work on a graphical desktop, or come by `ssh -X`"
        raise ChslurmError("can't open windows for --vga: neither DISPLAY nor WAYLAND_DISPLAY is set", hint=hint)
