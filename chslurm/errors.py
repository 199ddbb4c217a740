# SPDX-License-Identifier: Apache-2.0
"""Every error a user can meet, and the exit status each one means.

    ChslurmError            70  machinery failed: the tool or a node could not do its part
    ├── UsageError          64  bad input; nothing was started
    ├── DeviceError         70  this node can't have a device, which is no fault of it
    └── ProcessError        70  a program we started failed; carries its command line and last words

Library code raises; only `chslurm.cli` prints and exits. A message is one line that names the object, the cause and,
in `hint`, what to do. The numbers are those of BSD `sysexits.h` (64, 70), `timeout(1)` (124), shells (128 + signal).
"""

from __future__ import annotations

from enum import IntEnum

DEBUG_VARIABLE = "CHSLURM_DEBUG"
"""Set it to see where an unexpected error came from."""


class ExitCode(IntEnum):
    """Exit statuses of the launcher that do not come from the job."""

    OK = 0
    USAGE = 64
    MACHINERY = 70
    TIME_LIMIT = 124
    INTERRUPTED = 130
    CANCELLED = 143


class ChslurmError(Exception):
    """Machinery failed. `hint` says what the user can do about it; it may be empty."""

    exit_code: ExitCode = ExitCode.MACHINERY
    causes: tuple[str, ...] = ()
    """Lines of a check-up, which follow the message."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """One line, whatever the values quoted in it hold."""
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UsageError(ChslurmError):
    """Bad option, size, path, image or environment variable, found before anything was started."""

    exit_code = ExitCode.USAGE


class DeviceError(ChslurmError):
    """This node can't have a device that was asked for; that is no fault of the node."""


class ProcessError(ChslurmError):
    """A program could not be started, failed, or did not end in time."""


def explained(error: Exception) -> ChslurmError:
    """Return what the user is told: whatever goes wrong on a host reaches him, also what nobody thought of."""
    return error if isinstance(error, ChslurmError) else ChslurmError(f"{type(error).__name__}: {error}")
