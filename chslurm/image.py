# SPDX-License-Identifier: Apache-2.0
"""STORY: images. So far: build one from the packages of a distribution."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from chslurm.errors import UsageError
from chslurm.host.imagebuild import BuildOptions, BuiltImage, build_image
from chslurm.units import parse_size_mib, quote

__all__ = ["BuildOptions", "BuiltImage", "build_image", "make_build_options"]

DEFAULT_SUITE = "bookworm"
DEFAULT_SIZE = "16G"

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
