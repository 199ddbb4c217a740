# SPDX-License-Identifier: Apache-2.0
"""Windows for guests (--vga): before anything starts, a QEMU that opens them is looked for, and a place to do so."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chslurm.errors import ChslurmError
from chslurm.host.screen import find_display
from chslurm.plan import Mode


@pytest.fixture
def here() -> Iterator[dict[str, str]]:
    """An environment with a display of this machine at which somebody listens, by a name that is in no folder."""
    number = next(number for number in range(50_000, 60_000) if not is_taken(number))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0/tmp/.X11-unix/X{number}")
        server.listen()
        yield {"DISPLAY": f":{number}.0"}


def is_taken(number: int) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(f"\0/tmp/.X11-unix/X{number}") == 0


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
    qemu_with: Callable[..., str], here: dict[str, str], displays: tuple[str, ...], chosen: str
) -> None:
    qemu = qemu_with(*displays)
    assert find_display(qemu, Mode.WORKSTATION, here) == chosen
    assert find_display(qemu, Mode.CLUSTER, here) == chosen
    assert find_display(qemu, Mode.WORKSTATION, {"WAYLAND_DISPLAY": "wayland-0"}) == chosen


def test_a_qemu_without_windows_is_told_with_the_package(qemu_with: Callable[..., str], here: dict[str, str]) -> None:
    with pytest.raises(ChslurmError, match="has neither of sdl and gtk") as caught:
        find_display(qemu_with("curses", "egl-headless", "spice-app"), Mode.CLUSTER, here)
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


@pytest.mark.parametrize(
    "display", ["localhost:59535.0", "tcp/127.0.0.1:59535", ":49999", "unix:49999", "localhost:99999"]
)
def test_a_display_that_nobody_serves_is_told(qemu_with: Callable[..., str], display: str) -> None:
    """As on a node that inherits the DISPLAY which `ssh -X` set on the login node."""
    words = f"can't open windows for --vga: display {display}: "
    for mode, remedy in ((Mode.CLUSTER, "salloc --x11"), (Mode.WORKSTATION, "still there")):
        with pytest.raises(ChslurmError, match=f"^{re.escape(words)}.") as caught:
            find_display(qemu_with("sdl"), mode, {"DISPLAY": display})
        assert remedy in caught.value.hint


def test_a_display_over_tcp_is_reached(qemu_with: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1] - 6000
        assert find_display(qemu_with("sdl"), Mode.CLUSTER, {"DISPLAY": f"127.0.0.1:{number}"}) == "sdl"


@pytest.mark.parametrize("display", ["/private/tmp/launch/x:0", "node::0", "x"])
def test_a_display_of_an_unknown_form_is_left_to_qemu(qemu_with: Callable[..., str], display: str) -> None:
    assert find_display(qemu_with("sdl"), Mode.CLUSTER, {"DISPLAY": display}) == "sdl"


def test_wayland_is_another_way_on_a_desktop_only(qemu_with: Callable[..., str]) -> None:
    both = {"DISPLAY": ":49999", "WAYLAND_DISPLAY": "wayland-0"}
    assert find_display(qemu_with("sdl"), Mode.WORKSTATION, both) == "sdl"
    with pytest.raises(ChslurmError, match="display :49999"):
        find_display(qemu_with("sdl"), Mode.CLUSTER, both)
