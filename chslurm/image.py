# SPDX-License-Identifier: Apache-2.0
"""STORIES: an image built from the packages of a distribution; an empty one."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from chslurm.errors import UsageError
from chslurm.host.aside import open_folder, start_aside
from chslurm.host.imagebuild import BuildOptions, BuiltImage, build_image
from chslurm.host.process import run
from chslurm.host.target import read_use
from chslurm.units import parse_size_bytes, parse_size_mib, quote, render_size

__all__ = ["BuildOptions", "BuiltImage", "build_image", "create_image", "make_build_options"]

DEFAULT_SUITE = "bookworm"
DEFAULT_SIZE = "16G"
FORMATS = ("qcow2", "raw")

_LEAST_SIZE_MIB = 2048
"""The packages of a guest take 0.7 GiB; less than this and there is no room to install anything."""

_SUITE = re.compile(r"[a-z][a-z0-9-]{1,39}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_MIRROR = re.compile(r"(?:https?|file)://[!-Z^-~]+")


def make_build_options(
    recipe: Path,
    output: Path,
    *,
    suite: str = DEFAULT_SUITE,
    include: Iterable[str] = (),
    size: str = DEFAULT_SIZE,
    mirror: str | None = None,
    force: bool = False,
) -> BuildOptions:
    """Return what `chslurm image build` was asked for. `recipe` is the folder `guest/image`.

    Packages may be given one by one or joined by commas. Raises UsageError for values that can't be meant.
    """
    if not _SUITE.fullmatch(suite):
        raise UsageError(f"--suite {quote(suite)}: not the name of a Debian release", hint="use one like bookworm")
    packages = tuple(package for text in include for package in text.split(","))
    for package in packages:
        if not _PACKAGE.fullmatch(package):
            raise UsageError(f"--include {quote(package)}: not the name of a package")
    if mirror is not None and not _MIRROR.fullmatch(mirror):
        raise UsageError(f"--mirror {quote(mirror)}: not an address", hint="use one like http://deb.debian.org/debian")
    size_mib = parse_size_mib(size, "--size", least=_LEAST_SIZE_MIB)
    if not output.parent.is_dir():
        raise UsageError(f"--output {quote(str(output))}: no folder {quote(str(output.parent))}", hint="make it first")
    if output.exists() and not output.is_file():
        raise UsageError(f"--output {quote(str(output))}: it is not a file")
    if output.exists() and not force:
        raise UsageError(f"--output {quote(str(output))}: it exists", hint="use --force to replace it")
    return BuildOptions(suite, packages, size_mib, output, mirror, force, recipe)


def create_image(file: Path, *, size: str, image_format: str, force: bool) -> str:
    """Make an empty disk and return a line about it. Raises UsageError when the file is there already, or can't be."""
    name = f"image {quote(str(file))}"
    if image_format not in FORMATS:
        raise UsageError(f"--format {quote(image_format)}: unknown", hint=f"use one of {', '.join(FORMATS)}")
    size_bytes = parse_size_bytes(size, "--size")
    if os.path.lexists(file) and not force:
        raise UsageError(f"{name}: it exists", hint="use --force to replace it")
    if not file.parent.is_dir():
        raise UsageError(f"{name}: no folder {quote(str(file.parent))}", hint="make it first")
    if file.exists() and not file.is_file():
        raise UsageError(f"{name}: it is not a file")
    # First under a name that nobody has: a file that is there is replaced whole or not at all.
    aside_name = file.absolute().with_name(f".chslurm-create.{secrets.token_hex(8)}")
    try:
        if file.exists() and (use := read_use(file)) and (use.read or use.written):
            raise UsageError(f"{name}: guests or other programs use it", hint="choose another name")
        with start_aside(aside_name, mode=0o644) as aside, open_folder(aside_name.parent) as folder:
            argv = ["qemu-img", "create", "-q", "-f", image_format, aside.writable, str(size_bytes)]
            run(argv, pass_fds=[aside.fd], die_with_parent=True)
            aside.give_name(folder)
            if force:
                os.rename(aside.path, file)
            else:
                os.link(aside.path, file)
    except FileExistsError as error:
        raise UsageError(f"{name}: it exists", hint="use --force to replace it") from error
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error
    return f"{file}: an empty disk of {render_size(size_bytes >> 20)} ({image_format})"
