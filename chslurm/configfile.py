# SPDX-License-Identifier: Apache-2.0
"""One settings file, TOML: checked whole, every name, type and value; what is wrong is one line that names the file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import msgspec

from chslurm.allocation import parse_nodelist
from chslurm.environment import has_password
from chslurm.errors import UsageError
from chslurm.kinds import Accelerator, NetworkKind, TunnelKind
from chslurm.limits import NO_LIMITS, Limits
from chslurm.request import parse_choice, parse_cores, parse_job_name, parse_log_mib, parse_ram_mib, parse_tmp_mib
from chslurm.siteconfig import LIMITS, LIMITS_TABLE, SETTINGS, Kind, Setting
from chslurm.units import parse_count, parse_size_mib, parse_time_limit, quote

_TYPES: dict[Kind, Any] = {
    Kind.COUNT: int,
    Kind.SECONDS: int,
    Kind.SIZE: int | str,
    Kind.TIME: int | str,
    Kind.PATHS: list[str],
    Kind.CHOICES: list[str],
    Kind.HOSTS: list[str],
}
"""What TOML has to give; text for all others."""

_FOUND = {bool: "true or false", int: "a number", float: "a fraction", str: "text", list: "a list", dict: "a table"}

_CHECKS: dict[str, Callable[[str, str], object]] = {
    "guests": parse_count,
    "cores": parse_cores,
    "ram": parse_ram_mib,
    "jobname": parse_job_name,
    "tmp_size": parse_tmp_mib,
    "log_size": parse_log_mib,
    "time_limit": parse_time_limit,
    "boot_timeout": parse_count,
    "accel": partial(parse_choice, Accelerator),
    "network": partial(parse_choice, NetworkKind),
    "tunnel": partial(parse_choice, TunnelKind),
}
"""The parsers of the options; a path is checked where it is used."""

_PLACEHOLDER = re.compile(r"^~(?=/|$)|\$(\w+)|\$\{(\w+)\}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Person:
    """Whom ~, $HOME and $USER stand for."""

    home: str  # empty when nobody says
    name: str


@dataclass(frozen=True, slots=True)
class Config:
    """What one file says."""

    file: str
    values: Mapping[str, str]
    limits: Limits = NO_LIMITS


def parse_config(text: str, file: str, person: Person, *, site: bool) -> Config:
    """Return what a settings file says; limits only the site's may have. Raises UsageError, in one line."""
    name = f"can't use settings: {file}"
    try:
        table = tomllib.loads(text)
    except ValueError as error:  # also of numbers that are too long
        raise UsageError(f"{name}: {error}", hint="a line is NAME = VALUE, a text stands in quotes") from error
    except RecursionError as error:
        raise UsageError(f"{name}: nested too deeply") from error
    limits = table.pop(LIMITS_TABLE, {})
    if limits and not site:
        raise UsageError(f"{name}: {LIMITS_TABLE}: only the site sets them", hint="remove them")
    if not isinstance(limits, dict):
        raise UsageError(f"{name}: {LIMITS_TABLE}: not a table", hint=f"write [{LIMITS_TABLE}] in a line of its own")
    _check_names(table, SETTINGS, name, "")
    _check_names(limits, LIMITS, name, f"{LIMITS_TABLE}.")
    values = {
        setting.name: _read(setting, table[setting.name], f"{name}: {setting.name}", person)
        for setting in SETTINGS
        if setting.name in table
    }
    return Config(file, values, _make_limits(limits, file, name, person))


def check_value(setting: Setting, text: str, name: str) -> str:
    """Return the text. Raises UsageError when the option would not take it."""
    if not text.isprintable():
        raise UsageError(f"{name} {quote(text)}: holds a control character")
    if check := _CHECKS.get(setting.name):
        check(text, name)
    return text


def _check_names(table: Mapping[str, object], known: tuple[Setting, ...], name: str, prefix: str) -> None:
    names = [setting.name for setting in known]
    for key in table:
        if key in names:
            continue
        others = SETTINGS if known is LIMITS else LIMITS
        if any(key == setting.name for setting in others):
            hint = f"it is to stand {'above' if known is LIMITS else 'below'} the line [{LIMITS_TABLE}]"
        else:
            also = [] if known is LIMITS else [LIMITS_TABLE]
            close = get_close_matches(key.replace("-", "_").lower(), [*names, *also], n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
        raise UsageError(f"{name}: {quote(prefix + key)}: unknown here", hint=hint)


def _take(setting: Setting, given: object, name: str) -> Any:
    """Return what TOML gave, when it is of the right type. Raises UsageError."""
    if isinstance(given, int) and abs(given) >= 1 << 63:  # Python writes down no number of very many digits
        raise UsageError(f"{name}: a number of more than 64 bits", hint=f"write {setting.name} = {setting.example}")
    try:
        return msgspec.convert(given, type=_TYPES.get(setting.kind, str))
    except msgspec.ValidationError as error:
        found = _FOUND.get(type(given), "a date or time")
        hint = f"it takes a {setting.type}, as {setting.name} = {setting.example}"
        raise UsageError(f"{name}: {found}", hint=hint) from error


def _read(setting: Setting, given: object, name: str, person: Person) -> str:
    """Return a value of a file as it would stand on the command line. Raises UsageError."""
    text = str(_take(setting, given, name))
    if not setting.option and has_password(text):
        hint = f"set the variable {setting.variable} in its place: others may read this file"
        raise UsageError(f"{name}: holds a password", hint=hint)
    return check_value(setting, _expand(text, name, person) if setting.kind is Kind.PATH else text, name)


def _expand(text: str, name: str, person: Person) -> str:
    """Return a whole path, with the user's home and name in it. Raises UsageError."""

    def put(found: re.Match[str]) -> str:
        word = found[1] or found[2] or "HOME"
        if word not in ("HOME", "USER"):
            raise UsageError(f"{name} {quote(text)}: ${word}?", hint="only ~, $HOME and $USER are known")
        if word == "HOME" and not person.home:
            hint = "getent passwd $(id -u) is to say; or write a path without"
            raise UsageError(f"{name} {quote(text)}: can't find out the home directory", hint=hint)
        return person.home if word == "HOME" else person.name

    path = _PLACEHOLDER.sub(put, text)
    if not path.startswith("/"):
        raise UsageError(f"{name} {quote(text)}: not a whole path", hint="begin it with /, ~ or $HOME")
    return path


def _make_limits(table: Mapping[str, object], file: str, name: str, person: Person) -> Limits:
    given: dict[str, Any] = {}
    for setting in LIMITS:
        if setting.name in table:
            called = f"{name}: {LIMITS_TABLE}.{setting.name}"
            given[setting.name] = _read_limit(setting, _take(setting, table[setting.name], called), called, person)
    if "reserved_ram" in given:
        given["reserved_ram_mib"] = given.pop("reserved_ram")
    return Limits(file=file, **given) if given else NO_LIMITS


def _read_limit(setting: Setting, given: Any, name: str, person: Person) -> Any:
    match setting.kind:
        case Kind.SIZE:
            return parse_size_mib(str(given), name, least=0)
        case Kind.COUNT:
            return parse_count(str(given), name, least=0 if setting.name == "reserved_cores" else 1)
        case Kind.PATHS:
            return tuple(_expand(check_value(setting, path, name), name, person) for path in given)
        case Kind.HOSTS:
            return tuple(host for text in given for host in parse_nodelist(text, name))
        case _:
            kind = NetworkKind if setting.name == "networks" else TunnelKind
            chosen = tuple(dict.fromkeys(parse_choice(kind, text, name, setting.choices) for text in given))
            if not chosen:
                raise UsageError(f"{name}: empty", hint=f"name some of {', '.join(setting.choices)}")
            return chosen
