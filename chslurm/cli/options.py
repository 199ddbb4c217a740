# SPDX-License-Identifier: Apache-2.0
"""What several commands have in common: how a cluster and its guests are named, and completed by a shell."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from chslurm.errors import ChslurmError, UsageError

if TYPE_CHECKING:
    from chslurm.host.clusters import Cluster

    _Text = click.ParamType[str]
    _Number = click.ParamType[int]
    _Numbers = click.ParamType[tuple[int, ...]]
else:  # click had no type arguments before 8.4
    _Text = _Number = _Numbers = click.ParamType

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SAFE = re.compile(r"[\w@%+=:,./~-]+")
"""A shell puts a completion into its command line as it is: what it would read as more than a word is not offered."""

_IMAGE_SUFFIXES = (".qcow2", ".img", ".raw")

_MOST = 300
"""No more completions than this: nobody reads them."""


def find_current_directory() -> Path:
    """Return where relative paths start. Raises UsageError when that folder is gone."""
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"current directory: {error.strerror}", hint="cd to one that exists") from error


def make_path(path: str) -> Path:
    """Return the path as it is. Raises UsageError when it starts from a current directory that is gone."""
    if not os.path.isabs(path):
        find_current_directory()
    return Path(path)


def choose_cluster(name: str | None, *, allow_ended: bool = False) -> Cluster:
    """Return the cluster that the user means, as `select_cluster` tells; by an absolute path from anywhere."""
    from chslurm.host.clusters import select_cluster
    from chslurm.siteconfig import CLUSTER_VARIABLE

    named = name or os.environ.get(CLUSTER_VARIABLE, "")
    cwd = Path("/") if os.path.isabs(named) else find_current_directory()
    return select_cluster(name, cwd, allow_ended=allow_ended)


def cluster_option(command: _Command) -> _Command:
    """Add `-c/--cluster NAME`, which the command gets as `cluster: str | None`, for `choose_cluster`."""
    option = click.option(
        "-c", "--cluster", metavar="NAME", shell_complete=complete_clusters,
        help="Cluster: name or directory of its job directory, or cluster id; beginnings are enough."
        " Default: $CHSLURM_CLUSTER, that of the current directory, or the only one that runs.",
    )  # fmt: skip
    return option(command)


class Place(_Text):
    """A path, taken as it is; the shell completes it. `name` is "file" or "dir", its word for it and our metavar."""

    def __init__(self, name: str) -> None:
        self.name = name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        return [CompletionItem(incomplete, type=self.name)]


class ImageFile(Place):
    """The path of an image: the shell is offered files that are called like one, and folders on the way."""

    def __init__(self) -> None:
        super().__init__("file")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        folder, slash, _ = incomplete.rpartition("/")
        found: list[str] = []
        with suppress(OSError, RuntimeError):  # no such folder, no such user
            there = Path(f"{folder}{slash}" or ".").expanduser().iterdir()
            found = sorted(path.name for path in there if path.suffix in _IMAGE_SUFFIXES)
        offered = _offer([f"{folder}{slash}{name}" for name in found], incomplete)
        if not offered:
            return super().shell_complete(ctx, param, incomplete)
        return [CompletionItem(incomplete, type="dir"), *offered]


class AfterDashes(click.Command):
    """A launcher: what stands after `--` is for the job script, and never the IMAGE, which can be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        dashes = args.index("--") if "--" in args else len(args)
        left = super().parse_args(ctx, args[:dashes])
        ctx.params["arguments"] = (*(ctx.params.get("arguments") or ()), *args[dashes + 1 :])
        return left


class Word(_Text):
    """One of a few words, which the request checks; the shell is offered them."""

    name = "what"

    def __init__(self, words: type[StrEnum]) -> None:
        self.words = words

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        return _offer(list(self.words), incomplete)


FILE, DIR, IMAGE = Place("file"), Place("dir"), ImageFile()


class GuestNumber(_Number):
    """One guest, `0` or `chgu0`; the command gets its number."""

    name = "guest"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from chslurm.guestlist import parse_guest

        return value if isinstance(value, int) else parse_guest(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        return _offer(_guest_words(ctx, named=incomplete.startswith("c")), incomplete)


class GuestNumbers(_Numbers):
    """Several guests, `0,2-3`; the command gets their numbers in this order."""

    name = "guests"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        from chslurm.guestlist import parse_guests

        return value if isinstance(value, tuple) else parse_guests(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        done, comma, last = incomplete.rpartition(",")
        words = _guest_words(ctx, named=last.startswith("c"))
        return _offer([f"{done}{comma}{word}" for word in words], incomplete)


def guest_argument(command: _Command) -> _Command:
    """Add the argument `[GUEST]`, which the command gets as `guest: int`: guest 0 when none is named."""
    return click.argument("guest", metavar="[GUEST]", type=GuestNumber(), default=0, required=False)(command)


def guests_option(command: _Command) -> _Command:
    """Add `-w/--guests LIST`, which the command gets as `guests: tuple[int, ...] | None`."""
    option = click.option(
        "-w", "--guests", metavar="LIST", type=GuestNumbers(), help="Only these guests, as 0,2-3. Default: all."
    )
    return option(command)


def complete_clusters(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Names of the clusters that run; where there are none, and for what looks like a path, folders."""
    if "/" in incomplete or incomplete.startswith("."):
        return [CompletionItem(incomplete, type="dir")]
    from chslurm.host.clusters import find_clusters

    offer = _offer([cluster.name for cluster in find_clusters()], incomplete)
    return offer or [CompletionItem(incomplete, type="dir")]  # one that has ended


def _guest_words(ctx: click.Context, *, named: bool) -> list[str]:
    """Names or numbers of the guests of the cluster that the command line means so far."""
    from chslurm.meta import make_guest_name

    with suppress(ChslurmError, OSError):
        plan = choose_cluster(ctx.params.get("cluster"), allow_ended=True).plan
        return [make_guest_name(guest.id) if named else str(guest.id) for guest in plan.guests]
    return []


def _offer(words: Sequence[str], incomplete: str) -> list[CompletionItem[Any]]:
    fits = (word for word in dict.fromkeys(words) if word.startswith(incomplete) and _SAFE.fullmatch(word))
    return [CompletionItem(word) for word, _ in zip(fits, range(_MOST), strict=False)]
