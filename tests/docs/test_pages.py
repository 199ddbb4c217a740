# SPDX-License-Identifier: Apache-2.0
"""Pages name what there is, all of it, and nothing else: files, variables, commands, exit statuses."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePath

from commandpage import render_command_page

from chslurm import environment
from chslurm.errors import ExitCode
from chslurm.guest_files import ClusterKeys, HostIdentity, make_guest_files
from chslurm.jobdir import (
    META_FILES,
    JobDir,
    find_guest_of_output,
    is_run_file,
    is_run_folder,
    name_first_part,
    name_part_before,
)
from chslurm.phases import Cause
from chslurm.plan import Plan

DOCS = Path(__file__).parent.parent.parent / "docs"
ACCEPT = "ACCEPT_GOLDEN"

_PLACES = {"guest": "N", "turn": "T", "cluster_id": "ID", "image_format": "qcow2"}
"""What stands in the page for what varies in a name."""


def rows_of(page: str, heading: str) -> list[str]:
    """All that stands in backquotes in the first columns of tables under a heading."""
    text = (DOCS / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first = re.findall(r"^\|([^|]+)\|", text, re.MULTILINE)
    return [word for cell in first for word in re.findall(r"`([^`]+)`", cell)]


def job_dir_names() -> set[str]:
    """Every name that jobdir.py has, as the page has them."""
    job_dir = JobDir(PurePath("J"))
    names: set[PurePath] = set()
    for name, member in inspect.getmembers(JobDir):
        if isinstance(member, property) and name != "root":
            found = getattr(job_dir, name)
            names.update(found if isinstance(found, tuple) else [found])
        elif inspect.isfunction(member) and not name.startswith("_"):
            names.add(
                getattr(job_dir, name)(*(_PLACES[what] for what in list(inspect.signature(member).parameters)[1:]))
            )
    logs = [job_dir.console("N"), job_dir.guest_log("N")]  # type: ignore[arg-type]
    names |= {name_part(log) for log in logs for name_part in (name_first_part, name_part_before)}
    return {str(path.relative_to("J")) for path in names}


def test_job_directory_is_told_file_by_file() -> None:
    told = {name.rstrip("/") for name in rows_of("how-it-works.md", "The job directory")}
    assert told - {"out/net_H_*.out"} == job_dir_names() - {"out", "run"}


def test_names_of_files_are_those_that_are_cleared() -> None:
    for name in rows_of("how-it-works.md", "The job directory"):
        real = name.replace("N", "0").replace("H_*", "1_pasta").replace(".ID", ".0123456789abcdef").rstrip("/")
        folder, _, file = real.partition("/")
        if folder == "out":
            assert find_guest_of_output(file) is not None, name
        elif folder == "run" and not file.startswith("lock") and ".saved." not in file:
            assert is_run_file(file) or is_run_folder(file), name


def test_files_of_meta_are_told() -> None:
    told = {name.removeprefix("/ch/meta/") for name in rows_of("jobs.md", "Files") if name.startswith("/ch/meta/")}
    assert told == {*META_FILES, "sync/N.jobready", "sync/N.jobdone", "test/"}


def test_variables_of_jobs_are_told(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    keys, identity = ClusterKeys("", "", "", ""), HostIdentity("", "", "")
    files = make_guest_files(plan, plan.guests[0], keys, identity, mtu=1450, environment={})
    (shown,) = (file.text for file in files if file.name == "environment.sh")
    set_for_jobs = re.findall(r"^export (\w+)=", shown, re.MULTILINE)
    second = re.findall(r"\| `(SLURM_\w+)` \|$", (DOCS / "jobs.md").read_text(), re.MULTILINE)
    told = {*rows_of("jobs.md", "Variables"), *second}
    assert told == {*set_for_jobs, "CH_DATA2", *environment._JOB_IDENTITY}


def test_proxies_are_told() -> None:
    (text,) = re.findall(r"Proxies of your environment \(([^)]+)\)", (DOCS / "jobs.md").read_text())
    assert re.findall(r"`(\w+)`", text) == list(environment._PROXIES)


def test_exit_statuses_and_causes_are_told() -> None:
    page = (DOCS / "jobs.md").read_text()
    numbers = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert numbers == {int(code) for code in ExitCode if code}
    end = page.split("names the `cause`: ")[1].split(". ")[0]
    assert {" ".join(word.split()) for word in re.findall(r"`([^`]+)`", end)} == {str(cause) for cause in Cause}


def test_page_of_commands_is_what_help_says() -> None:
    page, text = DOCS / "commands.md", render_command_page()
    if os.environ.get(ACCEPT):
        page.write_text(text)
    assert page.read_text() == text, f"docs/commands.md differs; to accept: {ACCEPT}=1 pytest tests/docs"
