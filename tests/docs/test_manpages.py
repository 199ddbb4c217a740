# SPDX-License-Identifier: Apache-2.0
"""Manual pages say what help and documentation say, all of it, and man(1) has nothing to complain about."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from manpages import MAN, list_options, render_pages, walk_commands
from manwords import EXAMPLES
from roff import render_markdown

from chslurm.cli.chrun import chrun
from chslurm.cli.main import chslurm
from chslurm.cli.oneguest import oneguest
from chslurm.siteconfig import LIMITS, SETTINGS

ACCEPT = "ACCEPT_GOLDEN"
COMMANDS = {name: command for program in (chrun, oneguest, chslurm) for name, command in walk_commands(program)}
SECTIONS = ("SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "ENVIRONMENT", "EXAMPLES", "SEE ALSO")


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    """Each page as a reader sees it; it is looked at whether man complains."""
    if shutil.which("man") is None:
        pytest.skip("there is no man here")
    return {str(path.relative_to(MAN)): show(path) for path in sorted(MAN.glob("man?/*")) if path.stem != "vcluster"}


def show(path: Path) -> str:
    """Words of a page, hyphens and line breaks left out of account."""
    env = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MAN_KEEP_FORMATTING": "", "MANROFFSEQ": ""}
    argv = ["man", "--warnings=all", "-E", "UTF-8", "-l", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, ""), path
    return " ".join(done.stdout.split())


def test_pages_are_up_to_date() -> None:
    pages = render_pages()
    if os.environ.get(ACCEPT):
        for path in MAN.glob("man?/*"):
            if str(path.relative_to(MAN)) not in pages:
                path.unlink()
        for name, text in pages.items():
            (MAN / name).parent.mkdir(parents=True, exist_ok=True)
            (MAN / name).write_text(text)
    there = {str(path.relative_to(MAN)): path.read_text() for path in MAN.glob("man?/*")}
    assert there.keys() == pages.keys()
    for name, text in pages.items():
        assert there[name] == text, f"man/{name} differs; to accept: {ACCEPT}=1 pytest tests/docs"


def test_every_option_of_help_is_in_its_page(shown: dict[str, str]) -> None:
    for name, command in COMMANDS.items():
        page = shown[f"man1/{name.replace(' ', '-')}.1"]
        for option in list_options(command):
            record = option.get_help_record(click.Context(command))
            assert record is not None
            assert " ".join(record[0].split()) in page, (name, record[0])
            assert all(word in page for word in record[1].split()), (name, record)


def test_every_page_has_its_sections(shown: dict[str, str]) -> None:
    for name in COMMANDS:
        page = shown[f"man1/{name.replace(' ', '-')}.1"]
        assert all(f" {section} " in page for section in SECTIONS), name


def test_settings_are_all_told(shown: dict[str, str]) -> None:
    page = shown["man5/chslurm-config.5"]
    for setting in (*SETTINGS, *LIMITS):
        for word in (setting.name, setting.option, setting.variable, setting.type):
            assert word in page, setting.name
        assert all(word in page for word in setting.meaning.split()), setting.name


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_commands_that_there_are(name: str) -> None:
    assert name in EXAMPLES, f"add an example to tests/support/manwords.py for: {name}"
    for line, _ in EXAMPLES[name]:
        words = shlex.split(line.replace('eval "$(', "").replace(')"', ""))
        at = next(number for number, word in enumerate(words) if word in ("chrun", "vcluster", "oneguest", "chslurm"))
        program, rest = words[at].replace("vcluster", "chrun"), words[at + 1 :]
        command = {"chrun": chrun, "oneguest": oneguest, "chslurm": chslurm}[program]
        check_line(command, program, rest)


def check_line(command: click.Command, name: str, words: list[str]) -> None:
    """Have click read the words; nothing is run."""
    context = command.make_context(name, list(words))
    if isinstance(command, click.Group):
        word, child, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert child is not None
        check_line(child, str(word), rest)


def test_vcluster_is_a_name_of_chrun() -> None:
    assert (MAN / "man1/vcluster.1").read_text().endswith("\n.so man1/chrun.1\n")


@pytest.mark.parametrize(
    ("markdown", "roff"),
    [
        (".SH\n", [".PP", r"\&.SH"]),
        ("it's `a-b \\n 'c'`\n", [".PP", r"it\(aqs \fBa\-b \en \(aqc\(aq\fR"]),
        ("- one\n- [two](x.md)\n", [r".IP \(bu 2", "one", r".IP \(bu 2", "two"]),
        ("```{.console .host}\n.x\n'y\n```\n", [".PP", ".RS 4", ".nf", r"\&.x", r"\(aqy", ".fi", ".RE"]),
        ("| a | |\n|---|---|\n| `x` | y |\n", [".PP", ".TP", r"\fBx\fR", "y"]),
        ("| a | b | c |\n|---|---|---|\n| x | y | z |\n", [".PP", ".TP", "x", "b: y", ".br", "c: z"]),
    ],
)
def test_markdown_becomes_a_page(markdown: str, roff: list[str]) -> None:
    assert render_markdown(markdown) == roff
