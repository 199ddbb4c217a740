# SPDX-License-Identifier: Apache-2.0
"""Manual pages, written from what there is: commands as `--help` tells them, pages of docs/, the table of settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
from commandpage import make_context
from manwords import COMMON_EXITS, ENVIRONMENT, EXAMPLES, EXITS, FILES, SEE_ALSO
from roff import bold, escape, paragraph, render_code, render_items, render_markdown

from chslurm.cli.chrun import chrun
from chslurm.cli.main import chslurm
from chslurm.cli.oneguest import oneguest
from chslurm.siteconfig import SITE_FILE, USER_FILE

DOCS = Path(__file__).parents[2] / "docs"
MAN = Path(__file__).parents[2] / "man"

_HEAD = '.\\" Made from the commands and docs/ by tests/support/manpages.py: ACCEPT_GOLDEN=1 pytest tests/docs'


def render_pages() -> dict[str, str]:
    """Return every page by its place in man/."""
    commands = {name: command for program in (chrun, oneguest, chslurm) for name, command in walk_commands(program)}
    pages = {f"man1/{_page_name(name)}.1": _render_command(name, command) for name, command in commands.items()}
    pages["man1/vcluster.1"] = f"{_HEAD}\n.so man1/chrun.1\n"
    pages["man5/chslurm-config.5"] = _render_config()
    pages["man5/chslurm-jobdir.5"] = _render_job_dir()
    pages["man7/chslurm-job.7"] = _render_job()
    return pages


def walk_commands(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Commands that users type, with the words that name them."""
    name = name or str(command.name)
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            child = command.get_command(context, word)
            if child is not None and not child.hidden:
                yield from walk_commands(child, f"{name} {word}")


def list_options(command: click.Command) -> list[click.Option]:
    """Those that help tells of, and help itself."""
    context = make_context(command, "")
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    return [option for option in options if not option.hidden]


def _page_name(name: str) -> str:
    return name.replace(" ", "-")


def _render_command(name: str, command: click.Command) -> str:
    context = make_context(command, name)
    paragraphs = [re.sub(r"\s+", " ", text).strip() for text in (command.help or "").split("\n\n")]
    lines = _start(_page_name(name), 1, paragraphs[0], "vcluster" if name == "chrun" else "")
    usage = " ".join(command.collect_usage_pieces(context))
    for program in (name, "vcluster") if name == "chrun" else (name,):
        lines += [".SH SYNOPSIS"] if program == name else [".br"]
        lines += [f"{bold(program)} {escape(usage)}"]
    lines += [".SH DESCRIPTION"]
    for text in paragraphs:
        lines += [".PP", paragraph(_inline(text))]
    records = [record for option in list_options(command) if (record := option.get_help_record(context))]
    lines += [".SH OPTIONS", *render_items([(_option(shown), _inline(text)) for shown, text in records])]
    if isinstance(command, click.Group):
        lines += [".SH COMMANDS"]
        for word in command.list_commands(context):
            if (child := command.get_command(context, word)) is not None and not child.hidden:
                title = _title((child.help or "").split("\n\n")[0])
                lines += render_items([(f"{bold(f'{_page_name(name)}-{word}')}(1)", _inline(title))])
    if command.epilog and "Exit status:" not in command.epilog and "Examples:" not in command.epilog:
        lines += [".SH NOTES", *render_code(command.epilog.replace("\b\n", "").strip())]
    lines += _render_rest(name, is_group=isinstance(command, click.Group))
    return _finish(lines)


def _render_rest(name: str, *, is_group: bool) -> list[str]:
    """What help does not tell, or only chrun's."""
    exits = sorted((COMMON_EXITS | EXITS.get(name, {})).items(), key=lambda exit: (isinstance(exit[0], str), exit[0]))
    lines = [".SH EXIT STATUS", *render_items([(bold(str(number)), _inline(text)) for number, text in exits])]
    lines += [".SH FILES", *render_items([(bold(file), _inline(text)) for file, text in FILES.items()])]
    lines += [".SH ENVIRONMENT", *render_items([(bold(word), _inline(text)) for word, text in ENVIRONMENT.items()])]
    lines += [".SH EXAMPLES"]
    for command, text in EXAMPLES.get(name, ()):
        lines += [".PP", paragraph(_inline(text)), *render_code(command)]
    parent = name.rpartition(" ")[0]
    pages = [parent and f"{_page_name(parent)}(1)", *SEE_ALSO]
    return [*lines, *_see_also([page for page in pages if page and page != f"{_page_name(name)}(1)"])]


def _render_config() -> str:
    intro, _, rest = (DOCS / "settings.md").read_text().partition("\n## ")
    lines = _start("chslurm-config", 5, "settings of chslurm, the site's and your own")
    lines += [".SH SYNOPSIS", paragraph(bold(SITE_FILE)), ".br", paragraph(bold(USER_FILE))]
    lines += [".SH DESCRIPTION", *render_markdown(intro), *render_markdown(f"## {rest}", str.upper)]
    lines += [".SH EXAMPLES", ".PP", "A file to start from:", *render_code("chslurm config sample")]
    return _finish([*lines, *_see_also(["chrun(1)", "chslurm-config(1)", "chslurm-job(7)"])])


def _render_job_dir() -> str:
    text = (DOCS / "how-it-works.md").read_text().split("\n## The job directory\n")[1].split("\n## ")[0]
    lines = _start("chslurm-jobdir", 5, "what is in the job directory of a virtual cluster")
    before, _, after = text.partition("\n| file |")
    table, _, rest = after.partition("\n\n")
    lines += [".SH DESCRIPTION", *render_markdown(before)]
    lines += [".SH FILES", *render_markdown(f"| file |{table}\n"), ".SH NOTES", *render_markdown(rest)]
    example = "chslurm logs --cluster charlie.20260102_030405 --err"
    lines += [".SH EXAMPLES", ".PP", "What the job of a cluster that has ended said:", *render_code(example)]
    return _finish([*lines, *_see_also(["chrun(1)", "chslurm-logs(1)", "chslurm-job(7)"])])


def _render_job() -> str:
    text = (DOCS / "jobs.md").read_text()
    intro, _, rest = text.partition("\n## ")
    lines = _start("chslurm-job", 7, "what a job script in the guests of a virtual cluster sees")
    lines += [".SH DESCRIPTION", *render_markdown(intro)]
    names = {"Variables": "ENVIRONMENT", "The end": "EXIT STATUS"}
    lines += render_markdown(f"## {rest}", lambda title: names.get(title, title.upper()))
    lines += [
        ".SH EXAMPLES",
        ".PP",
        "Batch scripts with job scripts to start from:",
        *render_code("chslurm template list"),
    ]
    return _finish([*lines, *_see_also(["chrun(1)", "chslurm-template(1)", "chslurm-jobdir(5)"])])


def _start(name: str, section: int, title: str, other: str = "") -> list[str]:
    names = ", ".join(filter(None, (name, other)))
    head = f'.TH "{name.upper()}" "{section}" "" "chslurm" "Virtual clusters"'
    return [_HEAD, head, ".nh", ".ad l", ".SH NAME", rf"{escape(names)} \- {_inline(_title(title))}"]


def _title(text: str) -> str:
    """The first sentence, short: what apropos finds."""
    first = re.split(r"(?<=\w)[.:] ", re.sub(r"\s+", " ", text).strip())[0].rstrip(".")
    return first[0].lower() + first[1:] if not first[:2].isupper() else first


def _inline(text: str) -> str:
    """Words of help: between backquotes stands what is typed, and nothing else means anything."""
    pieces = re.sub(r"\s+", " ", text).strip().split("`")
    return "".join(bold(piece) if number % 2 else escape(piece) for number, piece in enumerate(pieces))


def _option(shown: str) -> str:
    """`-d, --dir DIR`, the words to be typed in bold."""
    return re.sub(r"(?<![\w-])-{1,2}[\w-]+", lambda match: bold(match[0]), shown)


def _see_also(pages: list[str]) -> list[str]:
    shown = (
        re.sub(r"^(.+)(\(\d\))$", lambda match: f"{bold(match[1])}{match[2]}", page) for page in dict.fromkeys(pages)
    )
    return [".SH SEE ALSO", ", ".join(shown)]


def _finish(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
