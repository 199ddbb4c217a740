# SPDX-License-Identifier: Apache-2.0
"""Batch templates filled in: what is typed becomes one word of the script, and nothing but that."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.errors import UsageError
from chslurm.template import OPTIONS, Template, fill_template, list_examples

FOLDER = Path(__file__).parents[2] / "sbatch-templates"
CWD, EXAMPLES = PurePath("/home/user"), PurePath("/opt/chslurm/examples")
ALL = {path.stem: Template(path.stem, path.read_text()) for path in FOLDER.glob("*.sh")}
HOSTILE = ["$(touch x)", "`x`", "a b", "it's", '"; touch x', "a\nb=c", "${HOME}", "*", "a\\b", "é", "#SBATCH --x"]


def fill(name: str, *arguments: str, **given: str) -> str:
    values: dict[str, str | tuple[str, ...]] = {f"--{option}": value for option, value in given.items()}
    return fill_template(ALL[name], values | ({"--": arguments} if arguments else {}), CWD, EXAMPLES, "my.sh")


def read_variables(text: str, *names: str) -> list[str]:
    """What bash takes the assignments of a script for; its commands are left out."""
    shown = "".join(f'printf "%s\\0" "${{{name}[@]}}"; ' for name in names)
    script = text.split("\ncd ")[0].split("\nexec ")[0] + "\n" + shown
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def test_there_is_a_template_for_each_purpose() -> None:
    assert sorted(ALL) == ["charray", "chinteractive", "chjob", "chmany", "chmpi", "chrequeue", "chtime"]
    assert ALL["chjob"].title == "A job on several nodes, one guest on each"
    programs = ["sbatch", "bash", *["sbatch"] * 5]
    told = [f"CHSLURM_IMAGE=/data/vm/image.qcow2 {program}" for program in programs]
    assert [template.starter for _, template in sorted(ALL.items())] == told
    filled = [Template("", fill(name, image="i")) for name in sorted(ALL)]
    assert [template.starter for template in filled] == programs


@pytest.mark.parametrize("name", ALL)
def test_every_field_of_a_template_can_be_filled(name: str) -> None:
    options = {option.strip("-"): field for option, field in OPTIONS.items() if field != "ARGUMENTS"}
    values = {"time": "2:00:00", "array": "0-9%2", "ram": "1G", "image": "i", "job": "j", "dir": "d"}
    fields = ALL[name].fields
    given = {option: values.get(option, "7") for option, field in options.items() if {field, field.upper()} & {*fields}}
    text = fill(name, **given)
    assert list_examples(text, EXAMPLES) == []
    known = {"signal", "output", "open-mode", "job-name", "AGAIN", "cpus-per-task", "mem", "ARGUMENTS"}
    changed = {field for field, value in Template(name, text).fields.items() if value != fields[field]}
    assert changed >= fields.keys() - known
    assert "CHSLURM_IMAGE" not in text
    assert f"#     {Template('', text).starter} my.sh\n" in text
    subprocess.run(["bash", "-n", "-c", text], check=True)


@pytest.mark.parametrize("name", ALL)
def test_a_template_without_values_keeps_them_but_for_where_examples_are(name: str) -> None:
    text = fill(name)
    assert f"#     {ALL[name].starter} my.sh\n" in text
    before, after = ALL[name].fields, Template(name, text).fields
    moved = {field for field in before if before[field] != after[field]}
    assert moved == {field for field, value in before.items() if value.startswith("examples/")}
    assert all(after[field].startswith(f"{EXAMPLES}/") for field in moved)


def test_who_brings_a_script_has_a_folder_where_he_submits() -> None:
    fields = Template("", fill("chjob", job="work.sh", image="/vm/i")).fields
    assert (fields["JOB"], fields["DATA"], fields["IMAGE"]) == ("/home/user/work.sh", "data", "/vm/i")
    fields = Template("", fill("chmpi", "./a.out", "-x")).fields
    assert (fields["JOB"], fields["DATA"]) == (f"{EXAMPLES}/mpi/mpirun.sh", "data")
    assert fields["ARGUMENTS"] == "(./a.out -x)"
    assert Template("", fill("chtime", job="w")).fields["ARGUMENTS"] == "()"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_stay_words(text: str, tmp_path: Path) -> None:
    script = fill("chtime", text, "--", text, image=f"/vm/{text}", job=text, dir=text)
    read = read_variables(script, "IMAGE", "JOB", "DATA", "ARGUMENTS")
    assert read == [f"/vm/{text}", f"/home/user/{text}", f"/home/user/{text}", text, "--", text]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_whatever_is_typed_is_no_line_for_slurm(text: str) -> None:
    """sbatch reads lines until the first command: an assignment."""
    script = fill("chjob", image=f"/{text}", job=text)
    before = script[: script.index("IMAGE=")]
    assert [line for line in before.splitlines() if line.startswith("#SBATCH")] == [
        line for line in ALL["chjob"].text.splitlines() if line.startswith("#SBATCH")
    ]


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("chjob", {"nodes": "2 --exclusive"}, "--nodes '2 --exclusive': not a whole number"),
        ("chjob", {"nodes": "2\n#SBATCH -A x"}, "not a whole number"),
        ("chjob", {"nodes": "0"}, "--nodes '0': out of range"),
        ("chjob", {"time": "soon"}, "--time 'soon': not a time"),
        ("charray", {"array": "1-2;x"}, "--array '1-2;x': no array of tasks"),
        ("charray", {"array": "1-2\n"}, "no array of tasks"),
        ("chmany", {"ram": "lots"}, "--ram 'lots': not a size"),
        ("chmany", {"guests": "many"}, "--guests 'many': not a whole number"),
        ("chjob", {"image": ""}, "IMAGE: empty"),
        ("chjob", {"job": "a\0b"}, "holds a NUL character"),
        ("chjob", {"guests": "4"}, "no place for --guests; it takes --dir, --image, --job, --nodes, --time"),
        ("chjob", {"array": "1"}, "template chjob has no place for --array"),
    ],
)  # fmt: skip
def test_values_that_the_launcher_would_refuse_are_refused_now(name: str, given: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as error:
        fill(name, **given)
    assert words in str(error.value)


def test_a_file_name_can_not_leave_its_comment() -> None:
    with pytest.raises(UsageError):
        fill_template(ALL["chjob"], {"--image": "/i"}, CWD, EXAMPLES, "a\ntouch x.sh")
