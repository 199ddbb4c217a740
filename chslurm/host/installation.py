# SPDX-License-Identifier: Apache-2.0
"""Where an installation has its parts: a checkout, a venv, or a version that `misc/install` has made."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import chslurm
from chslurm.host.configfiles import find_config_files, find_user_file
from chslurm.host.files import find_data
from chslurm.site import CONFIG_FILE
from chslurm.slurmjob import SETTINGS_FILE

_DATA = {
    "boot-scripts": "guest",
    "batch-templates": "sbatch-templates",
    "examples": "examples",
    "for-root": "misc",
    "man": "man",
    "completions": "completions",
}
"""What users call it -> the folder of package data."""


def find_installation(wanted: str | None = None) -> dict[str, Path | None]:
    """Return where everything is by its name; None for what this installation has not.

    Raises UsageError when it can't be told which file of settings is the site's, unless only another name is `wanted`.
    """
    tree = _find_tree()
    programs = tree / "bin" if tree else Path(sys.prefix) / "bin"
    return {
        "programs": programs if (programs / "chslurm").exists() else None,
        "python": Path(sys.executable),
        "package": Path(chslurm.__file__).parent,
        **{name: _existing(find_data(folder)) for name, folder in _DATA.items()},
        "modulefiles": _existing(tree.parent / "modulefiles") if tree else None,
        "modulefiles-tcl": _existing(tree.parent / "modulefiles-tcl") if tree else None,
        "settings": find_config_files(os.environ)[0].path if wanted in (None, "settings") else None,
        "settings-own": find_user_file(os.environ),
        "settings-workstation": Path(CONFIG_FILE),
        "settings-jobs": Path(SETTINGS_FILE),
    }


def _find_tree() -> Path | None:
    """The version that `misc/install` has made and we are in."""
    tree = Path(sys.prefix).parent
    return tree if (tree / "MANIFEST").is_file() and (tree / "libexec/chslurm").is_file() else None


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None
