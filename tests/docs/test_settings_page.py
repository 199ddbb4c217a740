# SPDX-License-Identifier: Apache-2.0
"""The page of settings has the tables of the program, and examples that the program takes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from settingspage import fill_tables

from chslurm.configfile import Person, parse_config
from chslurm.siteconfig import SITE_FILE, SITE_FILE_VARIABLE, USER_FILE

PAGE = Path(__file__).parent.parent.parent / "docs/settings.md"
EXAMPLES = re.findall(r"^```\{\.toml title=\"([^\"]+)\"\}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_tables_are_those_of_the_program() -> None:
    text = fill_tables(PAGE.read_text())
    if os.environ.get("ACCEPT_GOLDEN"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "docs/settings.md differs; to accept: ACCEPT_GOLDEN=1 pytest tests/docs"


@pytest.mark.parametrize(("title", "text"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_examples_are_settings(title: str, text: str) -> None:
    assert title in (SITE_FILE, USER_FILE)
    config = parse_config(text, title, Person("/home/me", "me"), site=title == SITE_FILE)
    assert config.values or config.limits.file


def test_files_are_named() -> None:
    page = PAGE.read_text()
    assert {SITE_FILE, USER_FILE} == {title for title, _ in EXAMPLES}
    assert f"`{SITE_FILE_VARIABLE}`" in page
