# SPDX-License-Identifier: Apache-2.0
"""Batch templates: what is to be changed in one, and the same text with other values there.

Fields are lines of two kinds, `#SBATCH --nodes=3` and `IMAGE=...`. What is filled in is one word of the shell, or a
list of words, whatever it holds: values are quoted, and those that SLURM reads are numbers and times.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from chslurm.errors import UsageError
from chslurm.limits import NO_LIMITS
from chslurm.request import NOTHING_ASKED, RawOptions, make_request
from chslurm.units import parse_count, parse_time_limit, quote

_EXAMPLES = "examples/"
_FIELD = re.compile(r"(?:#SBATCH --(?P<option>[a-z-]+)|(?P<variable>[A-Z]+))=(?P<value>.*)")
_USAGE = re.compile(r"(#     )(CHSLURM_IMAGE=\S+ )?(sbatch|bash) \S+")
_ARRAY = re.compile(r"[0-9]+(?:-[0-9]+(?::[0-9]+)?)?(?:,[0-9]+(?:-[0-9]+(?::[0-9]+)?)?)*(?:%[0-9]+)?", re.ASCII)

OPTIONS = {
    "--nodes": "nodes",
    "--time": "time",
    "--array": "array",
    "--image": "IMAGE",
    "--job": "JOB",
    "--dir": "DATA",
    "--guests": "GUESTS",
    "--cores": "CORES",
    "--ram": "RAM",
    "--": "ARGUMENTS",
}
"""The field that an option fills; `chinteractive.sh`, which SLURM does not read, has NODES and TIME instead."""


@dataclass(frozen=True, slots=True)
class Template:
    """A batch template of this name."""

    name: str
    text: str

    @property
    def title(self) -> str:
        """Its first line of words."""
        lines = (line.removeprefix("#").strip() for line in self.text.splitlines()[1:])
        return next((line for line in lines if line and not line.startswith("SPDX-")), "")

    @property
    def starter(self) -> str:
        """What takes the script: sbatch, or bash for one that asks SLURM by itself; told the image if need be."""
        found = _USAGE.search(self.text)
        return f"{found[2] or ''}{found[3]}" if found else "sbatch"

    @property
    def fields(self) -> dict[str, str]:
        """What can be filled in, with the values of the example."""
        found = (_FIELD.fullmatch(line) for line in self.text.splitlines())
        return {match["option"] or match["variable"]: match["value"] for match in found if match}


def fill_template(
    template: Template, given: Mapping[str, str | Sequence[str]], cwd: PurePath, examples: PurePath, file_name: str
) -> str:
    """Return the text of a script, for a file of this name, with the values of options put in.

    Paths become absolute. Where a template's script or folder is not replaced, it is that of `examples`, wherever
    they are installed; but who brings a script or a program has a folder `data` where he submits.
    Raises UsageError for values that the launcher would refuse, and for those that the template has no place for.
    """
    if not file_name.isprintable():
        raise UsageError(f"--output {quote(file_name)}: holds a control character", hint="choose another name")
    values = {_find_field(template, option): value for option, value in _check(given, cwd).items()}
    if "JOB" in values and "ARGUMENTS" in template.fields:
        values.setdefault("ARGUMENTS", ())
    own_work = "JOB" in values or values.get("ARGUMENTS")
    for name, value in template.fields.items():
        if name not in values and value.startswith(_EXAMPLES):
            values[name] = "data" if name == "DATA" and own_work else str(examples / value.removeprefix(_EXAMPLES))
    lines = (_fill(line, values, file_name) for line in template.text.splitlines())
    return "".join(f"{line}\n" for line in lines)


def list_examples(text: str, examples: PurePath) -> list[str]:
    """Return the fields of a filled template that still are those of the example."""
    return [name for name, value in Template("", text).fields.items() if value.startswith(shlex.quote(str(examples)))]


def _find_field(template: Template, option: str) -> str:
    field, fields = OPTIONS[option], template.fields
    for name in (field, field.upper()):
        if name in fields:
            return name
    takes = ", ".join(sorted(option for option, name in OPTIONS.items() if {name, name.upper()} & fields.keys()))
    raise UsageError(f"template {template.name} has no place for {option}", hint=f"it takes {takes}")


def _check(given: Mapping[str, str | Sequence[str]], cwd: PurePath) -> dict[str, str | Sequence[str]]:
    """Return the values as they are written; each is looked at by the launcher's own parsers."""
    words = {option: value for option, value in given.items() if isinstance(value, str)}
    arguments = tuple(given.get("--", ()))
    asked: RawOptions = {
        **NOTHING_ASKED,
        "image": words.get("--image", "image"),
        "job": words.get("--job", "job"),
        "dir": (words["--dir"],) if "--dir" in words else (),
        "arguments": arguments,
        "cores": words.get("--cores"),
        "ram": words.get("--ram"),
    }
    request = make_request(asked, cwd, NO_LIMITS)
    for option in {"--nodes", "--guests"} & words.keys():
        parse_count(words[option], option)
    if "--time" in words:
        parse_time_limit(words["--time"], "--time")
    if "--array" in words and not _ARRAY.fullmatch(words["--array"]):
        raise UsageError(
            f"--array {quote(words['--array'])}: no array of tasks", hint="use one like 0-9, 1,3,5 or 0-99%4"
        )
    paths = {"--image": request.image, "--job": request.job_script, "--dir": next(iter(request.directories), None)}
    written = words | {option: str(path) for option, path in paths.items() if option in words}
    return {**written, **({"--": arguments} if arguments else {})}


def _fill(line: str, values: Mapping[str, str | Sequence[str]], file_name: str) -> str:
    if usage := _USAGE.fullmatch(line):
        told = "" if "IMAGE" in values else usage[2] or ""
        return f"{usage[1]}{told}{usage[3]} {shlex.quote(file_name)}"
    match = _FIELD.fullmatch(line)
    value = values.get(match["option"] or match["variable"]) if match else None
    if match is None or value is None:
        return line
    written = shlex.quote(value) if isinstance(value, str) else f"({shlex.join(value)})"
    return f"{line[: match.start('value')]}{written}"
