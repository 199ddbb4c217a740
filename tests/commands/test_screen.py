# SPDX-License-Identifier: Apache-2.0
"""Windows for guests (--vga): before anything starts, a QEMU that opens them is looked for, and a place to do so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chslurm.errors import ChslurmError
from chslurm.host.screen import find_display
from chslurm.plan import Mode

HERE = {"DISPLAY": ":0"}


@pytest.fixture
def qemu_with(tmp_path: Path) -> Callable[..., str]:
    """Return a function that makes a QEMU with these displays."""

    def make(*displays: str) -> str:
        program = tmp_path / "qemu-system-x86_64"
        lines = "\n".join(("Available display backend types:", "none", *displays))
        program.write_text(f'#!/bin/sh\n[ "$*" = "-display help" ] || exit 99\ncat <<END\n{lines}\nEND\n')
        program.chmod(0o755)
        return str(program)

    return make


@pytest.mark.parametrize(("displays", "chosen"), [(("gtk", "sdl"), "sdl"), (("egl-headless", "gtk"), "gtk")])
def test_the_display_that_qemu_has_is_used(
    qemu_with: Callable[..., str], displays: tuple[str, ...], chosen: str
) -> None:
    qemu = qemu_with(*displays)
    assert find_display(qemu, Mode.WORKSTATION, HERE) == chosen
    assert find_display(qemu, Mode.CLUSTER, HERE) == chosen
    assert find_display(qemu, Mode.WORKSTATION, {"WAYLAND_DISPLAY": "wayland-0"}) == chosen


def test_a_qemu_without_windows_is_told_with_the_package(qemu_with: Callable[..., str]) -> None:
    with pytest.raises(ChslurmError, match="has neither of sdl and gtk") as caught:
        find_display(qemu_with("curses", "egl-headless", "spice-app"), Mode.CLUSTER, HERE)
    assert "qemu-system-gui" in caught.value.hint


@pytest.mark.parametrize(
    ("mode", "environment", "words"),
    [
        (Mode.WORKSTATION, {}, "neither DISPLAY nor WAYLAND_DISPLAY is set"),
        (Mode.CLUSTER, {}, "DISPLAY is not set in this job"),
        (Mode.CLUSTER, {"WAYLAND_DISPLAY": "wayland-0"}, "DISPLAY is not set in this job"),
    ],
)
def test_no_place_for_windows_is_told(
    qemu_with: Callable[..., str], mode: Mode, environment: dict[str, str], words: str
) -> None:
    with pytest.raises(ChslurmError, match=words):
        find_display(qemu_with("gtk"), mode, environment)
