# SPDX-License-Identifier: Apache-2.0
"""Settings of the kernel, as the steps of networks have them."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path("/proc/sys")
_MAY_LACK = ("net/ipv6/", "net/bridge/")  # what a kernel has not need not be switched off


def write_sysctls(text: str) -> None:
    """Do each line, `key = value`, where we are. Keys have dots or, if a link's name may have some, slashes.

    Raises OSError, but not for what a kernel without IPv6 or without filters in bridges lacks.
    """
    for line in text.splitlines():
        key, _, value = line.partition(" = ")
        name = key if "/" in key else key.replace(".", "/")
        if (_FOLDER / name).exists() or not name.startswith(_MAY_LACK):
            (_FOLDER / name).write_text(value)
