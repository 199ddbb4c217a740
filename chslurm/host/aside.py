# SPDX-License-Identifier: Apache-2.0
"""A new file beside another, which takes a name when it is whole; nobody else can have put it there, or its name.

While it is made it has no name where the file system allows that: who is killed leaves nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_KNOWS_NONE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
"""What file systems say that know no files without a name."""


@dataclass(slots=True)
class Aside:
    """The new file. `path` is the name it has, or will have before it takes its place."""

    fd: int
    path: Path
    named: bool

    @property
    def writable(self) -> str:
        """The name under which a program that inherits the descriptor can open it."""
        return f"/proc/self/fd/{self.fd}"

    @property
    def readable(self) -> Path:
        """The name under which any program of ours can open it."""
        return Path(f"/proc/{os.getpid()}/fd/{self.fd}")

    def give_name(self, folder_fd: int) -> None:
        """Let it be found at `path`, in the folder that `folder_fd` is. Raises OSError."""
        if not self.named:
            # With a folder's descriptor Python calls linkat(2), which alone follows the link in /proc.
            os.link(self.writable, self.path, src_dir_fd=folder_fd, follow_symlinks=True)
            self.named = True


@contextmanager
def start_aside(path: Path, *, mode: int = 0o600, nameless: bool = True) -> Iterator[Aside]:
    """Make the new file, whose name has a random part; it is gone afterwards unless it was renamed. Raises OSError."""
    flags, named = os.O_RDWR | os.O_CLOEXEC, not nameless
    if not named:
        try:
            fd = os.open(path.parent, flags | os.O_TMPFILE, mode)
        except OSError as error:
            if error.errno not in _KNOWS_NONE:
                raise
            named = True
    if named:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    aside = Aside(fd, path, named)
    try:
        yield aside
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Yield a descriptor of a folder. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
