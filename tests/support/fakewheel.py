# SPDX-License-Identifier: Apache-2.0
"""A wheel that is called chslurm and needs nothing: what `misc/install` does with it takes a second."""

from __future__ import annotations

import zipfile
from pathlib import Path

_CHRUN = """\
import os, sys, time

def main():
    name = os.path.basename(sys.argv[0])
    if sys.argv[1:] == ["--wait"]:
        print("waiting", flush=True)
        time.sleep(600)
    if sys.argv[1:] == ["--where"]:
        print(sys.executable)
    print(name, {version!r}, *sys.argv[1:])
"""


def make_fake_wheel(folder: Path, version: str, note: str = "") -> Path:
    """Write the wheel of a version and return its path; with another note it has other contents."""
    info = f"chslurm-{version}.dist-info"
    files = {
        "chslurm/__init__.py": f"# {note}\n",
        "chslurm/cli/__init__.py": "",
        "chslurm/cli/chrun.py": _CHRUN.format(version=version),
        "chslurm/cli/oneguest.py": "from chslurm.cli.chrun import main\nif __name__ == '__main__':\n    main()\n",
        "chslurm/cli/main.py": "from chslurm.cli.chrun import main\n",
        "chslurm/data/man/man1/chrun.1": ".TH chrun 1\n",
        "chslurm/data/completions/zsh/_chslurm": "#compdef chrun\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: chslurm\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},,{len(text)} {note}\n" for name, text in files.items()]
    files[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"chslurm-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path
