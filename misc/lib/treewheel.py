# SPDX-License-Identifier: Apache-2.0
"""What a version of chslurm is made from: a Python that all nodes have, and a wheel."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from treefiles import Refused

CHECKOUT = Path(__file__).resolve().parent.parent.parent
LEAST = (3, 11)

_WHEEL = re.compile(r"chslurm-(\d[A-Za-z0-9.!+_]*)-[^-]+-[^-]+-[^-]+\.whl")
_ERROR = re.compile(r"^ *ERROR: (?P<cause>.+)", re.M)
_CRASH = "Exception:"
"""What pip names as an error of which it knows nothing but the traceback."""
_RAISED = re.compile(r"^( *)Traceback .+\n(?:\1 .*\n|\n)+\1(?P<cause>\S.*)", re.M)
_LONGEST = 300
_ASK = """import json, os, sys
from importlib.util import find_spec
program = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
print(json.dumps([program, sys.version_info[0], sys.version_info[1], find_spec("pip") is not None]))"""


@dataclass(frozen=True)
class Python:
    """An interpreter by its real path, with its version in the name: a newer one of the system is no other for us."""

    program: str
    version: tuple[int, int]
    has_pip: bool

    @property
    def folder(self) -> str:
        return f"python{self.version[0]}.{self.version[1]}"


@dataclass(frozen=True)
class Wheel:
    path: Path
    version: str
    digest: str  # of the names and contents of its files


def find_python(name: str) -> Python:
    """Return the interpreter that is meant, which is never that of a venv. Raises Refused."""
    done = call([name, "-I", "-c", _ASK], f"can't use --python {name}")
    try:
        answer = json.loads(done)
    except ValueError:
        answer = None
    match answer:
        case [str(program), int(major), int(minor), bool(has_pip)]:
            if (major, minor) < LEAST:
                raise Refused(f"can't use --python {name}: it is Python {major}.{minor}; chslurm needs 3.11 or newer")
            return Python(program, (major, minor), has_pip)
        case _:
            raise Refused(f"can't use --python {name}: it is not a Python")


def find_wheel(given: Path | None, wheelhouse: Path | None, python: Python, work: Path) -> Wheel:
    """Return the wheel that is given, or the newest of the wheelhouse, or one of this checkout. Raises Refused."""
    if wheelhouse is not None and not wheelhouse.is_dir():
        raise Refused(f"can't use --wheelhouse {wheelhouse}: no such folder")
    if given is None and wheelhouse is not None:
        found = [path for path in wheelhouse.glob("chslurm-*.whl") if _WHEEL.fullmatch(path.name)]
        given = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if given is None:
        pip = make_pip(python, work)
        words: list[str | Path] = ["wheel", "--no-deps", "--wheel-dir", work, *from_where(wheelhouse), CHECKOUT]
        call([*pip, *words], f"can't make a wheel of {CHECKOUT}", work)
        given = next(work.glob("chslurm-*.whl"))
    match = _WHEEL.fullmatch(given.name)
    if match is None:
        raise Refused(f"can't install {given}: not the name of a wheel of chslurm")
    try:
        with zipfile.ZipFile(given) as archive:
            record = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
            files = sorted(archive.read(record).splitlines())
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise Refused(f"can't install {given}: {getattr(error, 'strerror', None) or 'not a wheel'}") from error
    return Wheel(given, match[1], hashlib.sha256(b"\n".join(files)).hexdigest())


def make_pip(python: Python, work: Path) -> list[str | Path]:
    """Return the command that is pip: the interpreter's own or, where Debian has taken that out, a new one."""
    options = ["--quiet", "--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    if python.has_pip:
        return [python.program, "-I", "-m", "pip", *options]
    if not (work / "pip").exists():
        call([python.program, "-I", "-m", "venv", work / "pip"], "can't make a venv to have pip (Debian: python3-venv)")
    return [work / "pip/bin/python3", "-I", "-m", "pip", *options]


def from_where(wheelhouse: Path | None) -> list[str]:
    return [] if wheelhouse is None else ["--no-index", f"--find-links={os.path.abspath(wheelhouse)}"]


def call(words: Sequence[str | Path], purpose: str, work: Path | None = None) -> str:
    """Run a program and return what it prints; its temporary files are in `work`. Raises Refused with why."""
    environment = None if work is None else os.environ | {"TMPDIR": str(work)}  # there it is removed even after a kill
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment
        )
    except OSError as error:
        raise Refused(f"{purpose}: {error.strerror}") from error
    if done.returncode:
        raise Refused(
            f"{purpose}: {_pick_cause(done.stderr) or _pick_cause(done.stdout) or f'exit status {done.returncode}'}"
        )
    return done.stdout


def _pick_cause(text: str) -> str:
    """Return the last error that pip names, behind which it may go on for long; of other programs the last line."""
    *_, cause = "", *(line.strip() for line in text.splitlines() if line.strip())
    for error in _ERROR.finditer(text):
        cause = error["cause"].strip()
        if cause == _CRASH:
            *_, cause = cause, *(raised["cause"].strip() for raised in _RAISED.finditer(text, error.end()))
    return cause[:_LONGEST]
