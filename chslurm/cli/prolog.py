# SPDX-License-Identifier: Apache-2.0
"""What SLURM's Prolog and Epilog run: `python3 -I -m chslurm.cli.prolog prolog|epilog SETTINGS`.

The same as `chslurm net prolog`, without a parser of command lines, which takes longer to load than the work takes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from chslurm.errors import ChslurmError, ExitCode


def run(verb: str, settings_file: Path) -> int:
    """Do what a verb means for the job that the environment tells of; return the exit status. Nothing is raised."""
    try:
        from chslurm.prolog import run_epilog, run_prolog

        if verb == "epilog":
            run_epilog(os.environ, say)
        else:
            run_prolog(os.environ, settings_file, say)
    except ChslurmError as error:
        say(str(error))
        return int(error.exit_code)
    except Exception as error:  # one line in slurmd's log
        say(f"unexpected error, please report it: {type(error).__name__}: {error}")
        return int(ExitCode.MACHINERY)
    return int(ExitCode.OK)


def say(text: str) -> None:
    """Print a line where slurmd's log has it."""
    line = "".join(c if c.isprintable() else " " for c in text)
    print(f"chslurm: {line.encode(errors='backslashreplace').decode()}", file=sys.stderr, flush=True)


def main() -> None:
    """Entry point. A lookup of names that still waits is left behind."""
    verb, *file = sys.argv[1:] or [""]
    if verb not in ("prolog", "epilog") or len(file) != 1:
        say("prolog or epilog, and which settings?")
        os._exit(int(ExitCode.USAGE))
    os._exit(run(verb, Path(file[0])))


if __name__ == "__main__":
    main()
