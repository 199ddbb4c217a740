# SPDX-License-Identifier: Apache-2.0
"""Bad input ends as one line that names object and cause, with the usage exit status, before anything is started."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from realbox import Box, Job, Result, choose_user, start_box

pytestmark = pytest.mark.real

IMAGE = "IMAGE"
"""Stands for the good image on the command lines below."""

SLURM_JOB = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NODELIST": "cn[001-002]",
    "SLURM_JOB_CPUS_PER_NODE": "2(x2)",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_MEM_PER_NODE": "2000",
    "SLURM_JOB_END_TIME": "4000000000",
}
"""A job as SLURM describes it, which the tests below garble."""

ODD = "a, b\nc=d"
ODD_NAMES = [
    ODD,
    "x,readonly=on",
    "%s $(id) `id` 'q' \"",
    "-d",
    "Bücher",
    "nbd:x",
    "json:{x",
    "back\\slash",
    "tab\there",
]


@pytest.fixture(scope="module")
def box(box_program: str) -> Iterator[Box]:
    """One folder for all tests here, full of what is not what it should be. No test may leave anything in it."""
    with start_box(box_program, choose_user()) as box:
        make_bad_things(box)
        yield box


@pytest.fixture
def empty_box(box_program: str) -> Iterator[Box]:
    """A folder of its own for a test that starts something."""
    with start_box(box_program, choose_user()) as box:
        yield box


def make_bad_things(box: Box) -> None:
    for name in ("folder", "theirs", "locked"):
        (box.folder / name).mkdir()
    box.write("notes.txt", "This is no image.\n" * 100)
    box.write("empty", "")
    box.write("no-header", "QFI\xfb", 0o644)
    box.write("good.sh", "#!/bin/sh\n")
    box.write("not-executable.sh", "#!/bin/sh\n", 0o644)
    box.write("windows.sh", "#!/bin/sh\r\n")
    os.mkfifo(box.folder / "pipe")
    (box.folder / "loop").symlink_to("loop")
    (box.folder / "dangling").symlink_to("missing")
    with open(box.image, "rb") as image:
        (box.folder / "cut-in-header").write_bytes(image.read(60))
        image.seek(0)
        (box.folder / "cut").write_bytes(image.read(1 << 20))
    secret = box.folder / "theirs" / "secret"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", secret, "1M"], check=True)
    for name, below in (("outside", secret), ("dotted", "./../theirs/secret"), ("gone", "missing")):
        make_overlay(box.folder / f"{name}.qcow2", below)
    make_overlay(box.folder / "protocol.qcow2", "nbd:unix:socket")
    subprocess.run(["chown", "-Rh", "--reference", str(box.folder), str(box.folder)], check=True)
    for name in ("unreadable", "locked"):  # root's own
        path = box.folder / name
        path.mkdir(exist_ok=True) if name == "locked" else path.write_bytes(b"QFI\xfb")
        os.chown(path, 0, 0)
        path.chmod(0o600 if path.is_file() else 0o700)


def make_overlay(path: Path, below: str | Path) -> None:
    """Make an image over `below`, which need not exist."""
    argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", str(below), "-F", "raw", str(path), "1M"]
    subprocess.run(argv, check=True)


def check_refused(box: Box, done: Result, before: list[str], *words: str) -> None:
    """Usage status, one line with all the words, and not a file more than before."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1), done
    assert done.stderr.startswith("chrun: ")
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert list_all(box) == before


def list_all(box: Box) -> list[str]:
    return sorted(str(path) for path in box.folder.rglob("*"))


def chrun(box: Box, *words: str) -> Result:
    return box("chrun", *(box.image if word == IMAGE else word for word in words), timeout_s=20)


def refuse(box: Box, command: list[str], *words: str) -> None:
    before = list_all(box)
    check_refused(box, chrun(box, *command), before, *words)


@pytest.mark.parametrize(
    ("image", "cause"),
    [
        ("missing", "No such file"),
        ("folder", "a directory"),
        ("/dev/zero", "not a regular file"),
        ("pipe", "not a regular file"),
        ("loop", "symbolic links"),
        ("dangling", "No such file"),
        ("unreadable", "Permission denied"),
        ("locked/image", "Permission denied"),
        ("good.sh/image", "Not a directory"),
        ("notes.txt", "not a disk image"),
        ("empty", "not a disk image"),
        ("no-header", "not a disk image"),
        ("cut-in-header", "header too short"),
        ("outside.qcow2", "does not lie beside it"),
        ("dotted.qcow2", "does not lie beside it"),
        ("protocol.qcow2", "does not lie beside it"),
        ("x" * 300, "File name too long"),
        ("", "empty"),
    ],
)
def test_image_that_is_none(box: Box, image: str, cause: str) -> None:
    refuse(box, [image], "image" if image else "IMAGE", image[:100], cause)


def test_image_whose_backing_file_is_gone(box: Box) -> None:
    refuse(box, ["gone.qcow2"], "backing file", "missing': No such file")


def test_image_that_was_cut_short(box: Box) -> None:
    refuse(box, ["cut"], "image", "cut", "cut off or damaged")


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("missing", "No such file"),
        ("folder", "a directory"),
        ("pipe", "not a regular file"),
        ("unreadable", "not readable"),
        ("not-executable.sh", "not executable"),
        ("windows.sh", "its lines end as on Windows"),
        ("", "empty"),
    ],
)
def test_job_script_that_is_none(box: Box, script: str, cause: str) -> None:
    refuse(box, ["--job", script, IMAGE], "--job", script, cause)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--dir", "missing"], "No such file"),
        (["--dir", "notes.txt"], "not a directory"),
        (["--dir", "locked"], "permission denied"),
        (["--dir", "folder", "--dir", "./folder"], "given twice"),
        (["--dir", ""], "empty"),
        (["--tmp-dir", "missing"], "No such file"),
        (["--tmp-dir", "/proc"], "permission denied"),
        (["--jobbase", "missing"], "No such file"),
        (["--jobbase", "notes.txt"], "nothing can be made there"),
        (["--jobbase", "/proc"], "nothing can be made there"),
        (["--jobbase", "locked"], "nothing can be made there"),
        (["--jobdir", "folder"], "not one of yours that this tool made"),
        (["--jobdir", "notes.txt"], "not one of yours that this tool made"),
        (["--jobdir", "loop"], "symbolic links"),
        (["--jobdir", "/"], "not one of yours that this tool made"),
        (["--jobdir", "a\nb"], "holds a control character"),
        (["--jobbase", "a\nb"], "holds a control character"),
        (["--jobname", "a/b"], "not usable as a name"),
    ],
)
def test_directory_that_cannot_be_used(box: Box, options: list[str], cause: str) -> None:
    refuse(box, [*options, IMAGE], cause)


@pytest.mark.parametrize("option", ["-n", "--cores", "--ram", "--tmp-size", "--boot-timeout", "--time-limit"])
@pytest.mark.parametrize("value", ["4G;", "0", "-1", str(1 << 63), "NaN", "", " ", "1e3", "4\n", "٣"])
def test_number_that_is_none(box: Box, option: str, value: str) -> None:
    refuse(box, [option, value, IMAGE], option, "4G;" if value == "4G;" else "")


def test_more_than_this_machine_has(box: Box) -> None:
    refuse(box, ["-n2", "--ram=100T", IMAGE], "2 guests with 100 TiB RAM each", "this machine's")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_JOB_ID", "x"),
        ("SLURM_JOB_ID", "-1"),
        ("SLURM_JOB_NODELIST", "n[1-"),
        ("SLURM_JOB_NODELIST", "cn[001-002]]"),
        ("SLURM_JOB_NODELIST", "cn001,cn001"),
        ("SLURM_JOB_NODELIST", "cn[1-99999999999]"),
        ("SLURM_JOB_NODELIST", "cn001,--help"),
        ("SLURM_JOB_NODELIST", "cn001\ncn002"),
        ("SLURM_JOB_NODELIST", ""),
        ("SLURM_JOB_CPUS_PER_NODE", "4(x2),2"),
        ("SLURM_JOB_CPUS_PER_NODE", "2(x0)"),
        ("SLURM_JOB_CPUS_PER_NODE", "2(x9999999)"),
        ("SLURM_JOB_CPUS_PER_NODE", "0(x2)"),
        ("SLURM_JOB_CPUS_PER_NODE", "-2(x2)"),
        ("SLURM_JOB_CPUS_PER_NODE", "two"),
        ("SLURM_JOB_CPUS_PER_NODE", ""),
        ("SLURM_JOB_NUM_NODES", "3"),
        ("SLURM_JOB_NUM_NODES", str(1 << 63)),
        ("SLURM_JOB_NUM_NODES", ""),
        ("SLURM_MEM_PER_NODE", "2G"),
        ("SLURM_MEM_PER_NODE", "-2000"),
        ("SLURM_MEM_PER_CPU", "much"),
        ("SLURM_MEM_PER_GPU", "1000"),
        ("SLURM_JOB_END_TIME", "tomorrow"),
        ("SLURM_HET_SIZE", "2"),
    ],
)
def test_garbled_variable_of_slurm(box: Box, name: str, value: str) -> None:
    before = list_all(box)
    variables = [f"{key}={text}" for key, text in {**SLURM_JOB, name: value}.items()]
    check_refused(box, box("env", *variables, "chrun", box.image, timeout_s=20), before, name)


def test_those_variables_are_good_where_nothing_is_garbled(box: Box) -> None:
    """In a job that there is; the one that they name is over."""
    variables = [f"{key}={text}" for key, text in SLURM_JOB.items()]
    check_refused(box, box("env", *variables, "chrun", box.image), list_all(box), "SLURM job '1' is over")
    variables = [f"{key}={text}" for key, text in SLURM_JOB.items() if key != "SLURM_JOB_ID"]
    done = box("salloc", "--quiet", "--nodes=2", "env", *variables, "chrun", "--dry-run", box.image)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert '"name": "cn002"' in done.stdout


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_do_not_disturb_the_plan(box: Box, name: str) -> None:
    folder = box.folder / "odd" / name
    folder.mkdir(parents=True)
    try:
        done = chrun(box, "--dry-run", "--dir", str(folder), IMAGE)
        assert (done.returncode, done.stderr) == (0, "")
        refuse(box, [str(folder)], "a directory")
    finally:
        folder.rmdir()
        folder.parent.rmdir()


def test_root_is_refused(box: Box) -> None:
    done = box("chrun", box.image, user="root")
    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "can't run as root" in done.stderr


def test_job_directory_of_a_running_cluster(empty_box: Box) -> None:
    box = empty_box
    with box.start("vcluster", "-n1", "--cores=1", "--ram=512M", "--jobdir=c", box.image) as head:
        try:
            Job(box, "").wait_event("guest_ready")  # the running cluster makes no more files of its own
            for _ in range(2):
                before = list_all(box)
                refused = chrun(box, "-n1", "--jobdir=c", IMAGE)
                check_refused(box, refused, before, "job directory", "another cluster runs in it", "another name")
        finally:
            head.send_signal(signal.SIGINT)
            head.communicate(timeout=60)
    assert head.returncode == 130


def test_odd_and_deep_directories_reach_the_guests_as_they_are(empty_box: Box) -> None:
    """Passed through, worked in, and as the place of job directories, whose sockets would have a limit of 108 bytes."""
    box = empty_box
    here = box.folder / ODD
    data = [here / name for name in ODD_NAMES]
    base = box.folder.joinpath("a, b=c", *(["deep" * 12] * 5))
    for folder in (*data, base):
        folder.mkdir(parents=True)
    for number, folder in enumerate(data, start=1):
        (folder / ODD).write_text(f"I am {number}\n")
    script = box.write("job.sh", f"#!/bin/bash\nfor n in {{1..9}}; do cat /ch/data$n/{shlex.quote(ODD)}; done\n")
    subprocess.run(["chown", "-R", "--reference", str(box.folder), *map(str, box.folder.iterdir())], check=True)
    dirs = [word for name in ODD_NAMES for word in ("--dir", f"./{name}")]
    chrun = ["chrun", "--jobbase", str(base), "--job", script, *dirs, box.image]
    done = box("env", "-C", str(here), "salloc", "-N1", *chrun)
    assert done.returncode == 0, done.stdout + done.stderr
    (job_dir,) = base.iterdir()
    assert len(str(base)) > 250
    seen = (job_dir / "out" / "0_job.out").read_text()
    assert seen == "".join(f"I am {number}\n" for number in range(1, len(data) + 1))
