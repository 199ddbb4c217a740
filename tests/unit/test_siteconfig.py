# SPDX-License-Identifier: Apache-2.0
"""The table of settings is whole, agrees with the launcher's options, and makes samples that can be read."""

from __future__ import annotations

import re
import tomllib

import pytest

from chslurm.cli.chrun import chrun
from chslurm.request import NOTHING_ASKED
from chslurm.siteconfig import LIMITS, LIMITS_TABLE, SETTINGS, find_setting, reference, render_sample

OPTIONS = {name: option for option in chrun.params for name in option.opts}


def test_names_are_told_once_and_all_in_words() -> None:
    names = [setting.name for setting in (*SETTINGS, *LIMITS)]
    assert len(set(names)) == len(names)
    variables = [setting.variable for setting in SETTINGS]
    assert len(set(variables)) == len(variables)
    for row in (*reference(), *reference(LIMITS)):
        assert row.meaning.endswith(".")
        assert all((row.type, row.default))
        assert "\n" not in "".join((row.meaning, row.type, row.default))


def test_every_setting_of_the_launcher_is_an_option_of_its() -> None:
    for setting in SETTINGS:
        if setting.option == "IMAGE":
            assert setting.name in NOTHING_ASKED
        elif setting.option:
            assert OPTIONS[setting.option].name == setting.name
            assert setting.name in NOTHING_ASKED
        else:
            assert setting.variable == setting.name, "of others, as proxies"


def test_limits_that_settings_name_are_there() -> None:
    limits = {setting.name for setting in LIMITS}
    assert {setting.limited_by for setting in SETTINGS} - {""} <= limits
    assert [row.limited_by for row in reference() if row.name == "image"] == [f"{LIMITS_TABLE}.image_folders"]


def test_a_setting_is_found_by_its_name() -> None:
    found = find_setting("ram")
    assert found is not None
    assert found.variable == "CHSLURM_RAM"
    assert find_setting("reserved_ram") is None


@pytest.mark.parametrize("site", [True, False])
def test_a_sample_sets_nothing_and_explains_everything(site: bool) -> None:
    text = render_sample(site=site)
    assert tomllib.loads(text) == ({LIMITS_TABLE: {}} if site else {})
    for row in (*reference(), *(reference(LIMITS) if site else ())):
        assert f"\n# {row.meaning}\n" in text
    set_all = tomllib.loads(re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE))
    limits = set_all.pop(LIMITS_TABLE, {})
    assert list(set_all) == [setting.name for setting in SETTINGS]
    assert list(limits) == ([setting.name for setting in LIMITS] if site else [])
