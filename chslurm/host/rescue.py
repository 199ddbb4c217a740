# SPDX-License-Identifier: Apache-2.0
"""What a guest changed, saved from an image that was replaced under it: its overlay alone would be worth nothing.

A file that is replaced lives as long as somebody has it open, and the head of a cluster with --commit has.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from chslurm.flatten import check_room, make_flatten_argv, make_source
from chslurm.host.aside import open_folder, start_aside
from chslurm.host.process import watch
from chslurm.host.target import ask_about, measure, read_free
from chslurm.plan import Image, Layer


@contextmanager
def hold_layers(image: Image) -> Iterator[list[int]]:
    """Keep all files of an image alive; yields their descriptors. One that can't be opened is left out."""
    held: list[int] = []
    try:
        for layer in image.layers:
            with suppress(OSError):
                held.append(os.open(layer.path, os.O_RDONLY | os.O_CLOEXEC))
        yield held
    finally:
        for fd in held:
            os.close(fd)


def save_guest(image: Image, overlay: Path, held: Sequence[int], target: Path, tick: Callable[[], None]) -> bool:
    """Write a guest's whole disk to `target`, as a new image; False when the files held are not what it was made over.

    `tick` is called a few times a second and may raise to stop it. Raises ChslurmError when it can't be written,
    OSError.
    """
    if len(held) != len(image.layers) or not all(map(_is_same, held, image.layers)):
        return False
    names = [f"/proc/{os.getpid()}/fd/{fd}" for fd in held]
    layers = tuple(replace(layer, path=name) for layer, name in zip(image.layers, names, strict=True))
    source = make_source(overlay, Image(layers), locking=False)
    info = ask_about(names[0], image.format)
    check_room(measure(source, image), read_free(target.parent), target.parent, "as a new image", "make room there")
    name = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    with start_aside(name) as aside, open_folder(target.parent) as folder:
        watch(make_flatten_argv(source, image, info, aside.writable, compress=False), tick, pass_fds=[aside.fd])
        aside.give_name(folder)
        os.rename(aside.path, target)
    return True


def _is_same(fd: int, layer: Layer) -> bool:
    """Whether an open file is what was planned with; losing its name has changed its ctime."""
    found = os.fstat(fd)
    return (found.st_size, found.st_mtime_ns, found.st_ino) == (layer.size_bytes, layer.mtime_ns, layer.inode)
