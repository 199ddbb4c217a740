# SPDX-License-Identifier: Apache-2.0
"""What holds of settings from files and variables, and the request that they make with options; limits bound it.

default  <  the site's file  <  the user's file  <  variables  <  options of the command line
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from chslurm.configfile import Config, check_value
from chslurm.environment import has_password
from chslurm.errors import UsageError
from chslurm.limits import NO_LIMITS, Limits
from chslurm.request import RawOptions, Request, make_request
from chslurm.siteconfig import LIMITS, SETTINGS, VARIABLES, Kind, Setting
from chslurm.units import parse_size_mib, parse_time_limit, quote, render_duration, render_size

_FIELDS = {"reserved_ram": "reserved_ram_mib"}
"""Limits whose names have a unit here."""

_PREFIX = "CHSLURM_"

_CLOSENESS = 0.9
"""Of names that all begin with the same word: RMA is RAM, but USER is not CLUSTER."""


class Origin(StrEnum):
    """Who has said something."""

    DEFAULT = "default"
    SITE = "site"
    USER = "user"
    VARIABLE = "variable"


@dataclass(frozen=True, slots=True)
class Value:
    """What holds for a setting, as on a command line, unless an option says otherwise."""

    text: str
    origin: Origin
    place: str  # the file or the variable; empty for a default


@dataclass(frozen=True, slots=True)
class Settings:
    """What all of them say together."""

    values: Mapping[str, Value]  # of all settings
    limits: Limits = NO_LIMITS
    warnings: tuple[str, ...] = ()

    def find(self, name: str) -> str | None:
        """Return what somebody has said of a setting."""
        value = self.values[name]
        return None if value.origin is Origin.DEFAULT else value.text


def choose_values(configs: Iterable[tuple[Origin, Config]], environment: Mapping[str, str]) -> Settings:
    """Return what holds: of files in this order, the later wins, and variables win over all. Raises UsageError."""
    values = {setting.name: Value(setting.default, Origin.DEFAULT, "") for setting in SETTINGS}
    limits = NO_LIMITS
    for origin, config in configs:
        values |= {name: Value(text, origin, config.file) for name, text in config.values.items()}
        if origin is Origin.SITE:
            limits = config.limits
    for setting in SETTINGS:
        if said := _find_variable(setting, environment):
            values[setting.name] = said
    return Settings(values, limits, tuple(_find_mistyped(environment)))


def make_settled_request(options: RawOptions, cwd: PurePath, settings: Settings, *, in_job: bool) -> Request:
    """Return the request of the options, and of settings where there is none. Raises UsageError."""
    filled: dict[str, Any] = {**options}
    told: dict[str, list[str]] = {}
    proxies = {}
    for setting, value in _find_said(settings, in_job=in_job):
        if not setting.option:
            proxies[setting.name] = value.text
        elif filled[setting.name] is None:
            filled[setting.name] = value.text
        else:
            continue
        if (words := render_value(setting, value.text)) != render_value(setting, setting.default):
            told.setdefault(value.place, []).append(f"{setting.name} {words}")
    if filled["image"] is None:
        hints = ("no setting names one either (CHSLURM_IMAGE=FILE)", "see --help", *settings.warnings)
        raise UsageError("Missing argument 'IMAGE'", hint="; ".join(hints))
    request = make_request(filled, cwd, settings.limits)  # type: ignore[arg-type]
    if bounds := _render_bounds(request, filled):
        told.setdefault(settings.limits.file, []).extend(bounds)
    lines = tuple(f"{', '.join(words)} from {place}" for place, words in told.items())
    return replace(request, proxies=proxies, settings=lines, warnings=settings.warnings)


def _find_said(settings: Settings, *, in_job: bool) -> Iterator[tuple[Setting, Value]]:
    """What somebody has said, and the launcher has to be told."""
    for setting in SETTINGS:
        value = settings.values[setting.name]
        alone = value.origin is Origin.VARIABLE and not setting.option  # proxies of the environment reach guests anyway
        if value.origin is not Origin.DEFAULT and not alone and not (setting.workstation and in_job):
            yield setting, value


def render_value(setting: Setting, text: str) -> str:
    """Return a value for people."""
    if setting.kind is Kind.SIZE:
        return render_size(parse_size_mib(text, setting.name, least=0))
    if setting.kind is Kind.TIME and text != setting.default:
        return render_duration(parse_time_limit(text, setting.name))
    return text


def list_limits(limits: Limits) -> dict[str, int | tuple[str, ...]]:
    """Return name and value of each limit that there is; sizes are in MiB."""
    given = {setting.name: getattr(limits, _FIELDS.get(setting.name, setting.name)) for setting in LIMITS}
    return {name: value for name, value in given.items() if value is not None and value != 0}


def render_limits(limits: Limits) -> dict[str, str]:
    """Return the same for people."""
    return {name: _render_limit(name, value) for name, value in list_limits(limits).items()}


def _render_bounds(request: Request, asked: Mapping[str, Any]) -> list[str]:
    """Say what limits have changed, without being in anybody's way."""
    limits = request.limits
    cores = limits.reserved_cores
    parts = [f"{cores} {'core' if cores == 1 else 'cores'} reserved"] if cores else []
    parts += [f"{render_size(limits.reserved_ram_mib)} RAM reserved"] if limits.reserved_ram_mib else []
    parts += [
        f"{name} {kind}"
        for name, kind in (("network", request.network), ("tunnel", request.tunnel))
        if kind != (asked[name] or kind.AUTO)
    ]
    return parts


def _render_limit(name: str, value: int | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return render_size(value) if name == "reserved_ram" else str(value)


def _find_variable(setting: Setting, environment: Mapping[str, str]) -> Value | None:
    """Return what a variable says. An empty one says nothing, but of a proxy that there is none. Raises UsageError."""
    if setting.option:
        text = environment.get(setting.variable)
        if not text:
            return None
        return Value(check_value(setting, text, setting.variable), Origin.VARIABLE, setting.variable)
    for variable in (setting.variable, setting.variable.upper()):
        if variable in environment:
            text = environment[variable]
            shown = "not shown: it holds a password" if has_password(text) else text
            return Value(shown, Origin.VARIABLE, variable)
    return None


def _find_mistyped(environment: Mapping[str, str]) -> Iterator[str]:
    """Tell of variables that nobody reads and that are nearly one of ours. Others may begin like ours, too."""
    for name, text in environment.items():
        if text and name.startswith(_PREFIX) and name not in VARIABLES:
            for meant in get_close_matches(name.upper(), VARIABLES, n=1, cutoff=_CLOSENESS):
                yield f"variable {quote(name)}: unknown; did you mean {meant}?"
