# SPDX-License-Identifier: Apache-2.0
"""Windows of QEMU on the user's display: whether this QEMU can open one, and has a place to."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

from chslurm.errors import ChslurmError
from chslurm.host.process import run
from chslurm.messages import printable
from chslurm.plan import Mode

_X_DISPLAY = re.compile(r"(?:(?:tcp|inet6?|unix|local)/)?([^/:]*):([0-9]{1,5})(?:\.[0-9]+)?", re.ASCII)
"""Host and number in DISPLAY, as X(7) has it; without a host it is a socket of this machine."""

_REACH_S = 5.0
"""How long an X server may take to accept a connection, which may lead through SLURM to the user's desk."""

_DISPLAYS = ("sdl", "gtk")
"""The first needs less of a desktop; of what the second does at its start, some releases start programs."""

_HINT = "allocate with `salloc --x11` from a terminal that has a display; the site has to allow it (PrologFlags=X11)"


def find_display(qemu: str, mode: Mode, environment: Mapping[str, str]) -> str:
    """Return the name of the display with which `qemu` opens windows. Raises ChslurmError when there will be none."""
    check_display(mode, environment)
    _check_reachable(mode, environment)
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
            raise ChslurmError("can't open windows for --vga: DISPLAY is not set in this job", hint=_HINT)
        hint = "work on a graphical desktop, or come by `ssh -X`"
        raise ChslurmError("can't open windows for --vga: neither DISPLAY nor WAYLAND_DISPLAY is set", hint=hint)


def _check_reachable(mode: Mode, environment: Mapping[str, str]) -> None:
    """Raise ChslurmError when nobody listens at DISPLAY: that of `ssh -X` leads nowhere on another machine.

    Of a QEMU that can't open its window no more would be known than that it ended.
    """
    name = environment.get("DISPLAY", "")
    found = _X_DISPLAY.fullmatch(name)
    if found is None or (mode is Mode.WORKSTATION and environment.get("WAYLAND_DISPLAY")):
        return  # a form that we do not know, or there is another way
    host, number = found[1], int(found[2])
    try:
        if host in ("", "unix"):
            _connect_here(f"/tmp/.X11-unix/X{number}")
        else:
            socket.create_connection((host, 6000 + number), timeout=_REACH_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or error
        hint = _HINT if mode is Mode.CLUSTER else "is it yours, and still there?"
        raise ChslurmError(f"can't open windows for --vga: display {printable(name)}: {cause}", hint=hint) from error


def _connect_here(path: str) -> None:
    """Connect to a server of this machine, as X's own library does: by the abstract name first."""
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.settimeout(_REACH_S)
        if not abstract.connect_ex(f"\0{path}"):
            return
    with socket.socket(socket.AF_UNIX) as named:
        named.settimeout(_REACH_S)
        named.connect(path)
