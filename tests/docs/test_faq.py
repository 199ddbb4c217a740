# SPDX-License-Identifier: Apache-2.0
"""A message that the page quotes is one that the program can print; the others come from commands that are run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from quoted import find_skeletons, is_message
from reading import Reader
from tutorialtext import parse_page

TOP = Path(__file__).parent.parent.parent
FAQ = (TOP / "docs" / "faq.md").read_text()
SKELETONS = find_skeletons(TOP / "chslurm")

_BLOCK = re.compile(r"^```\{\.text \.message\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"^(?:vcluster|chrun|chslurm|oneguest): ")
QUOTED = [_PROGRAM.sub("", line) for body in _BLOCK.findall(FAQ) for line in body.splitlines()]


@pytest.mark.parametrize("line", QUOTED)
def test_a_message_is_still_in_the_code(line: str) -> None:
    assert is_message(line, SKELETONS)


def test_a_message_that_nobody_prints_is_found() -> None:
    """Also one with another remedy, or another cause."""
    assert is_message(
        "image '/a/b': it is marked corrupt; repair it with qemu-img check -r all, or take a copy", SKELETONS
    )
    assert not is_message("image '/a/b': it is marked corrupt; buy another", SKELETONS)
    assert not is_message("image '/a/b': it is tired; take a whole copy; qemu-img check says more", SKELETONS)
    assert not is_message("something else entirely", SKELETONS)
    assert len(QUOTED) > 10


@pytest.mark.docs
@pytest.mark.alone
def test_errors_that_need_no_guests(reader: Reader) -> None:
    for section in parse_page(FAQ):
        reader.do(section)
