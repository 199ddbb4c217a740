# SPDX-License-Identifier: Apache-2.0
"""Settings files found and read: the site's, which only root can change, and the user's, which nobody else can."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from chslurm.allocation import is_allocation
from chslurm.configfile import Config, Person, parse_config
from chslurm.configured import Origin, Settings, choose_values, make_settled_request
from chslurm.errors import UsageError
from chslurm.host.rootfiles import WRITABLE, read_bounded_text, read_root_file
from chslurm.request import RawOptions, Request
from chslurm.siteconfig import SITE_FILE, SITE_FILE_VARIABLE

_site_file = Path(SITE_FILE)  # tests have another


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Where a settings file is, or would be."""

    origin: Origin  # SITE or USER
    path: Path
    exists: bool


def settle_request(
    options: RawOptions, cwd: PurePath, environment: Mapping[str, str], *, workstation: bool = False
) -> Request:
    """Return the request of options and settings, within the site's limits. Raises UsageError.

    What a SLURM job decides itself is left to it, unless this is to be a `workstation` wherever it is.
    """
    in_job = is_allocation(environment) and not workstation
    return make_settled_request(options, cwd, read_settings(environment), in_job=in_job)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return what holds on this machine for this user. Raises UsageError for a file that can't be relied on."""
    found = [file for file in find_config_files(environment) if file.exists]
    return choose_values([(file.origin, read_config(file, environment)) for file in found], environment)


def find_config_files(environment: Mapping[str, str]) -> tuple[ConfigFile, ...]:
    """Return where settings come from, the site's first.

    The variable names the site's file only where root has written none, so that nobody gets rid of that by it.
    """
    site, named = _site_file, environment.get(SITE_FILE_VARIABLE, "")
    if named and not _is_there(site):
        if not os.path.isabs(named):
            raise UsageError(f"{SITE_FILE_VARIABLE}: not a whole path", hint="begin it with /")
        site = Path(named)
    user = find_user_file(environment)
    return (
        ConfigFile(Origin.SITE, site, site != _site_file or _is_there(site)),
        ConfigFile(Origin.USER, user, os.path.lexists(user)),
    )


def find_user_file(environment: Mapping[str, str]) -> Path:
    """Return where the user's own settings are, or would be."""
    folder = environment.get("XDG_CONFIG_HOME", "")
    home = environment.get("HOME") or _find_person(site=False, environment=environment).home
    return Path(folder if os.path.isabs(folder) else f"{home}/.config", "chslurm", "config.toml")


def read_config(file: ConfigFile, environment: Mapping[str, str]) -> Config:
    """Return what a file says. Raises UsageError when others can change it, or it is wrong."""
    site = file.origin is Origin.SITE
    text = read_root_file(file.path) if file.path == _site_file else read_own_file(file.path)
    return parse_config(text, str(file.path), _find_person(site=site, environment=environment), site=site)


def read_own_file(path: Path) -> str:
    """Return the text of a file that only this user and root can change. Raises UsageError for any other.

    Home directories and what is in them may be links, which are followed; what counts is the file in the end.
    """
    name = f"can't use settings: {path}"
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{name}: not a regular file")
            text = read_bounded_text(file, name)
        real = Path(os.path.realpath(path))
        _check_owner(found, name, real)
        _check_owner(real.parent.stat(), name, real.parent)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error
    return text


def _is_there(path: Path) -> bool:
    """Raises UsageError when that can't be seen: there could be limits in it."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        hint = f"root lets all look: chmod go+rx {path.parent}"
        raise UsageError(f"can't use settings: {path}: {error.strerror}", hint=hint) from error
    return True


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _check_owner(found: os.stat_result, name: str, path: Path) -> None:
    """In a folder such as /tmp nobody can take away or rename what is another's."""
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    what = f"folder {path}" if stat.S_ISDIR(found.st_mode) else "it"
    if found.st_uid not in (0, os.getuid()):
        raise UsageError(f"{name}: {what} belongs to somebody else", hint="take a copy of your own")
    if found.st_mode & WRITABLE and not sticky:
        raise UsageError(f"{name}: others can change {what}", hint=f"chmod go-w {path}")


def _find_person(*, site: bool, environment: Mapping[str, str]) -> Person:
    """Return whom ~ and $USER mean: of the site's file, nobody whom the user could choose."""
    try:
        entry = pwd.getpwuid(os.getuid())
        home, name = entry.pw_dir, entry.pw_name
    except KeyError:  # no directory service answers
        home, name = "", str(os.getuid())
    return Person(home if site else environment.get("HOME") or home or "/", name)
