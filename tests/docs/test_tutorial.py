# SPDX-License-Identifier: Apache-2.0
"""The tutorial, done: every command typed into a real terminal, and all that it shows compared with what comes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from reading import Reader
from tutorialtext import Block, Section, parse_page

DOCS = Path(__file__).parent.parent.parent / "docs"
SECTIONS = parse_page((DOCS / "tutorial.md").read_text())
_MOST_NOT_RUN = 3


@pytest.mark.docs
@pytest.mark.timeout(400)
@pytest.mark.parametrize("section", SECTIONS, ids=[re.sub(r"\W+", "-", section.title.lower()) for section in SECTIONS])
def test_section(reader: Reader, section: Section, tmp_path: Path) -> None:
    """Each goes on where the one before it ended: the first that fails is the one to look at."""
    try:
        reader.do(section)
    finally:
        (tmp_path / "terminals").write_text(reader.show_all())


def test_nearly_everything_is_run() -> None:
    blocks = [item for section in SECTIONS for item in section.items if isinstance(item, Block)]
    assert len([block for block in blocks if block.not_run]) <= _MOST_NOT_RUN < len(blocks)


def test_pictures_are_there_and_shown() -> None:
    shown = {file for page in DOCS.glob("*.md") for file in re.findall(r"\(img/([^)]+)\)", page.read_text())}
    assert set(os.listdir(DOCS / "img")) == shown
