# SPDX-License-Identifier: Apache-2.0
"""What the user asked for: options as typed become one frozen value, or one clear error.

Everything that can be judged without looking at a machine is judged here; whether files exist is not.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import TypedDict, TypeVar

import msgspec

from chslurm.errors import UsageError
from chslurm.limits import Limits, choose_allowed
from chslurm.plan import DEFAULT_LOG_MIB, Accelerator, NetworkKind, TunnelKind
from chslurm.units import parse_count, parse_size_mib, parse_time_limit, quote

MAX_DIRECTORIES = 16
DEFAULT_TMP_MIB = 4096

_LEAST_TMP_MIB = 256
_LEAST_LOG_MIB = 8
_LEAST_RAM_MIB = 256
_MAX_ARGUMENTS_BYTES = 48 << 10
_Choice = TypeVar("_Choice", bound=StrEnum)
_JOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}", re.ASCII)


class RawOptions(TypedDict):
    """Options as they came from the command line: None or empty where one was not given."""

    image: str | None
    arguments: tuple[str, ...]
    guests: str | None
    job: str | None
    interactive: bool
    dir: tuple[str, ...]
    jobdir: str | None
    jobbase: str | None
    jobname: str | None
    cores: str | None
    ram: str | None
    my_size: bool
    cleanup: bool
    nosync: bool
    time_limit: str | None
    tmp_dir: str | None
    tmp_size: str | None
    log_size: str | None
    accel: str | None
    tunnel: str | None
    network: str | None
    boot_timeout: str | None
    dry_run: bool
    explain: bool
    curses: bool
    xterm: bool
    vga: bool
    commit: str | None
    no_report: bool


NOTHING_ASKED: RawOptions = {
    "image": None,
    "arguments": (),
    "guests": None,
    "job": None,
    "interactive": False,
    "dir": (),
    "jobdir": None,
    "jobbase": None,
    "jobname": None,
    "cores": None,
    "ram": None,
    "my_size": False,
    "cleanup": False,
    "nosync": False,
    "time_limit": None,
    "tmp_dir": None,
    "tmp_size": None,
    "log_size": None,
    "accel": None,
    "tunnel": None,
    "network": None,
    "boot_timeout": None,
    "dry_run": False,
    "explain": False,
    "curses": False,
    "xterm": False,
    "vga": False,
    "commit": None,
    "no_report": False,
}
"""No option given; the image is still to be named."""


class Console(StrEnum):
    """Where the user sees the consoles of guests while the launcher runs; the console files are written anyway."""

    NONE = "none"
    CURSES = "curses"  # guest 0's in this terminal
    XTERM = "xterm"  # each in an xterm of its own


@dataclass(frozen=True, slots=True)
class Request:
    """The user's wish, checked. Paths are absolute; None means: decide for me."""

    image: PurePath
    guest_ct: int | None
    job_script: PurePath | None
    job_arguments: tuple[str, ...]
    interactive: bool
    directories: tuple[PurePath, ...]
    job_base: PurePath
    job_dir: PurePath | None  # None: a new one, named by `job_name` and the time
    job_name: str
    cores: int | None
    ram_mib: int | None
    my_size: bool  # `cores` and `ram_mib` also count in an allocation, to take less than it gives
    cleanup: bool
    sync: bool
    time_limit_s: float | None
    tmp_dir: PurePath | None
    tmp_mib: int
    log_mib: int
    accelerator: Accelerator
    tunnel: TunnelKind
    network: NetworkKind
    boot_timeout_s: float | None
    dry_run: bool
    explain: bool
    console: Console
    vga: bool  # guests have a screen, shown in a window on their host
    commit_guest: int | None  # whose changes go into the image in the end
    report: bool  # a page that tells what happened is left in the job directory
    limits: Limits  # of the site
    proxies: Mapping[str, str] = field(default_factory=dict)  # for guests, beside those of the environment
    settings: tuple[str, ...] = ()  # what was chosen by settings and not by options, in words
    warnings: tuple[str, ...] = ()  # of variables that are none


def make_request(options: RawOptions, cwd: PurePath, limits: Limits) -> Request:
    """Return the request that `options` make within limits; relative paths start at `cwd`. Raises UsageError.

    What settings say is taken in before: see `configured`.
    """
    _check_contradictions(options)
    job_base = _path(options["jobbase"], "--jobbase", cwd) or cwd
    job_dir = _path(options["jobdir"], "--jobdir", job_base)
    cores, boot_timeout = options["cores"], options["boot_timeout"]
    ram, tmp_size, log_size = options["ram"], options["tmp_size"], options["log_size"]
    guests, time_limit = options["guests"], options["time_limit"]
    job_script, commit = _path(options["job"], "--job", cwd), options["commit"]
    tunnel = parse_choice(TunnelKind, options["tunnel"] or TunnelKind.AUTO, "--tunnel")
    network = parse_choice(NetworkKind, options["network"] or NetworkKind.AUTO, "--network")
    return Request(
        image=_given_path(options["image"] or "", "IMAGE", cwd),
        guest_ct=None if guests is None else parse_count(guests, "-n"),
        job_script=job_script,
        job_arguments=_arguments(options["arguments"]),
        interactive=options["interactive"] or job_script is None,
        directories=_directories(options["dir"], cwd),
        job_base=_without_controls(job_base, "--jobbase"),
        job_dir=None if job_dir is None else _without_controls(job_dir, "--jobdir"),
        job_name="charlie" if options["jobname"] is None else parse_job_name(options["jobname"], "--jobname"),
        cores=None if cores is None else parse_cores(cores, "--cores"),
        ram_mib=None if ram is None else parse_ram_mib(ram, "--ram"),
        my_size=options["my_size"],
        cleanup=options["cleanup"],
        sync=not options["nosync"],
        time_limit_s=None if time_limit is None else parse_time_limit(time_limit, "--time-limit"),
        tmp_dir=_path(options["tmp_dir"], "--tmp-dir", cwd),
        tmp_mib=DEFAULT_TMP_MIB if tmp_size is None else parse_tmp_mib(tmp_size, "--tmp-size"),
        log_mib=DEFAULT_LOG_MIB if log_size is None else parse_log_mib(log_size, "--log-size"),
        accelerator=parse_choice(Accelerator, options["accel"] or Accelerator.AUTO, "--accel"),
        tunnel=choose_allowed(tunnel, limits.tunnels, "--tunnel", limits.say("tunnels")),
        network=choose_allowed(network, limits.networks, "--network", limits.say("networks")),
        boot_timeout_s=None if boot_timeout is None else float(parse_count(boot_timeout, "--boot-timeout")),
        dry_run=options["dry_run"],
        explain=options["explain"],
        console=Console.CURSES if options["curses"] else Console.XTERM if options["xterm"] else Console.NONE,
        vga=options["vga"],
        commit_guest=None if commit is None else parse_count(commit, "--commit", least=0),
        report=not options["no_report"],
        limits=limits,
    )


def _check_contradictions(options: RawOptions) -> None:
    if options["arguments"] and options["job"] is None:
        raise UsageError("arguments after -- belong to a job script, and there is none", hint="add --job FILE")
    if options["my_size"] and options["cores"] is None and options["ram"] is None:
        raise UsageError("--my-size: no size given", hint="add --cores or --ram")
    if options["dry_run"] and options["explain"]:
        raise UsageError("--dry-run and --explain both print instead of running", hint="give one of them")
    if options["curses"] and options["xterm"]:
        raise UsageError("--curses and --xterm both show the console of guest 0", hint="give one of them")
    if options["commit"] is not None and options["cleanup"]:
        raise UsageError("--commit keeps what --cleanup deletes", hint="give one of them")


def _arguments(words: tuple[str, ...]) -> tuple[str, ...]:
    """They reach a guest as one message on its control port, which is bounded."""
    checked = tuple(_text(word, "job argument") for word in words)
    if len(msgspec.json.encode(shlex.join(checked))) > _MAX_ARGUMENTS_BYTES:
        raise UsageError(f"job arguments: more than {_MAX_ARGUMENTS_BYTES} bytes", hint="put them into a file in --dir")
    return checked


def _directories(given: Iterable[str], cwd: PurePath) -> tuple[PurePath, ...]:
    directories = tuple(_given_path(text, "--dir", cwd) for text in given)
    if len(directories) > MAX_DIRECTORIES:
        raise UsageError(f"--dir: {len(directories)} directories", hint=f"give at most {MAX_DIRECTORIES}")
    for number, directory in enumerate(directories):
        if directory in directories[:number]:
            raise UsageError(f"--dir {quote(str(directory))}: given twice", hint="give each directory once")
    return directories


def parse_cores(text: str, name: str) -> int:
    """Return the cores of a guest; what the machine has not is refused later. Raises UsageError."""
    return parse_count(text, name, most=4096)


def parse_ram_mib(text: str, name: str) -> int:
    """Return the RAM of a guest. Raises UsageError."""
    return parse_size_mib(text, name, least=_LEAST_RAM_MIB)


def parse_tmp_mib(text: str, name: str) -> int:
    """Return the size of a guest's temporary disk. Raises UsageError."""
    return parse_size_mib(text, name, least=_LEAST_TMP_MIB)


def parse_log_mib(text: str, name: str) -> int:
    """Return how much a guest's console may take in the job directory. Raises UsageError."""
    return parse_size_mib(text, name, least=_LEAST_LOG_MIB)


def parse_job_name(text: str, name: str) -> str:
    """Return a name that job directories can have. Raises UsageError."""
    if not _JOB_NAME.fullmatch(text):
        hint = "use at most 64 letters, digits and _ . + -, the first a letter, a digit or _"
        raise UsageError(f"{name} {quote(text)}: not usable as a name", hint=hint)
    return text


def parse_choice(kind: type[_Choice], text: str, name: str, known: Iterable[str] | None = None) -> _Choice:
    """Return one of the kinds, or of those that are `known`. Raises UsageError."""
    names = tuple(kind if known is None else known)
    if text not in names:
        raise UsageError(f"{name} {quote(text)}: unknown", hint=f"use one of {', '.join(names)}")
    return kind(text)


def _path(text: str | None, name: str, start: PurePath) -> PurePath | None:
    return None if text is None else _given_path(text, name, start)


def _given_path(text: str, name: str, start: PurePath) -> PurePath:
    """The absolute path; nothing but what cannot be a path anywhere is refused."""
    if not text:
        raise UsageError(f"{name}: empty", hint="give a path")
    return start / _text(text, name)


def _text(text: str, name: str) -> str:
    """Refuse what cannot stand in the plan, which is JSON, or in an argument list."""
    if "\0" in text:
        raise UsageError(f"{name} {quote(text)}: holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} {quote(text)}: not UTF-8", hint="rename it") from None
    return text


def _without_controls(path: PurePath, name: str) -> PurePath:
    """Names of job directories are printed, logged and pasted into shells: no line breaks in them."""
    if not str(path).isprintable():
        raise UsageError(f"{name} {quote(str(path))}: holds a control character", hint="choose another name")
    return path
