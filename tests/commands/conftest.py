# SPDX-License-Identifier: Apache-2.0
"""Commands in tests meet no settings but those of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from chslurm.host import configfiles
from chslurm.siteconfig import SETTINGS, SITE_FILE_VARIABLE


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forget the settings of this machine and of whoever runs the tests; returns a folder for those of a test."""
    folder = tmp_path_factory.mktemp("settings")
    folder.chmod(0o755)
    for variable in (SITE_FILE_VARIABLE, *(setting.variable for setting in SETTINGS if setting.option)):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "user"))
    monkeypatch.setattr(configfiles, "_site_file", folder / "site/config.toml")
    return folder
