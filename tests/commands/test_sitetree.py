# SPDX-License-Identifier: Apache-2.0
"""`misc/install`: versions side by side, moved, switched, killed, removed to the last file; with a small wheel."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakewheel import make_fake_wheel

INSTALL = Path(__file__).parent.parent.parent / "misc" / "install"
_CRASHES = """\
#!/bin/sh
case $* in
*" pip "*)
    cat >&2 <<'.'
  ERROR: Exception:
  Traceback (most recent call last):
    File "pip/base_command.py", line 180, in exc_logging_wrapper
      status = run_func(*args)
               ~~~~~~~~^^^^^^^
  OSError: [Errno 28] No space left on device

  During handling of the above exception, another exception occurred:

  Traceback (most recent call last):
    File "shutil.py", line 722, in rmtree
      os.lstat(path, dir_fd=dir_fd)
  OSError: [Errno 28] No space left on device
and more
.
    exit 2 ;;
esac
echo "[\\"$0\\", 3, 11, true]"
"""
"""A Python whose pip meets what it has no words for."""

Result = subprocess.CompletedProcess[str]
Install = Callable[..., Result]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    return {version: make_fake_wheel(folder, version) for version in ("1.0", "1.1")}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Path:
    """A prefix with both versions, 1.0 the default. Since it can be moved, a copy is as good as an installation."""
    folder = tmp_path_factory.mktemp("model") / "deep" / "prefix"
    for wheel in wheels.values():
        argv = [str(INSTALL), f"--prefix={folder}", f"--wheel={wheel}", f"--wheelhouse={wheel.parent}"]
        subprocess.run(argv, check=True)
    return folder


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """Two folders that are not there, in one that is."""
    (tmp_path / "sw").mkdir()
    return tmp_path / "sw" / "apps" / "chslurm"


@pytest.fixture
def both(prefix: Path, model: Path) -> Path:
    """The prefix with both versions in it."""
    shutil.copytree(model, prefix, symlinks=True)
    return prefix


@pytest.fixture
def one(both: Path) -> Path:
    """The prefix with 1.0 in it."""
    shutil.rmtree(both / "1.1")
    for path in both.glob("modulefiles*/chslurm/1.1*"):
        path.unlink()
    return both


@pytest.fixture
def install(prefix: Path, wheels: dict[str, Path]) -> Install:
    """Return a function that calls misc/install for the prefix; a version stands for its wheel."""

    def call(
        *words: str, version: str = "", umask: int = -1, wrap: tuple[str, ...] = (), program: Path = INSTALL
    ) -> Result:
        wheel = [f"--wheel={wheels[version]}", f"--wheelhouse={wheels[version].parent}"] if version else []
        argv = [*wrap, str(program), f"--prefix={prefix}", *wheel, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, umask=umask)

    return call


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def run(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment)
    return (done.stdout + done.stderr).strip()


def done(result: Result) -> str:
    assert result.returncode == 0, result.stderr
    return result.stderr


def refusal(result: Result) -> str:
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def test_two_versions_and_nothing_left(install: Install, prefix: Path) -> None:
    assert re.search(r"^install: installed .*/1\.0\n", done(install(version="1.0", umask=0o077)))
    check_modes(prefix)
    told = done(install(version="1.1"))
    assert "the default version is 1.0; --switch 1.1 makes this one that\n" in told
    done(install("--switch", "1.1"))
    assert run(prefix / "default/bin/vcluster", "a b", "c") == "vcluster 1.1 a b c"
    done(install("--uninstall"))
    assert listing(prefix.parent.parent) == []


def check_modes(prefix: Path) -> None:
    """All may read it, whatever the umask was."""
    for path in [prefix.parent, prefix, *prefix.rglob("*")]:
        mode = path.lstat().st_mode
        assert path.is_symlink() or (mode & 0o044 == 0o044 and not mode & 0o022), path
        assert path.is_symlink() or not path.is_dir() or mode & 0o111 == 0o111, path


def test_one_after_the_other(install: Install, both: Path) -> None:
    assert run(both / "1.1/bin/chslurm") == "chslurm 1.1"
    assert (both / "1.1/share/man/man1/chrun.1").is_file()
    assert (both / "1.1/share/zsh/site-functions/_chslurm").is_file()
    assert install("--list").stdout.split("\n") == ["1.0          default", "1.1", ""]
    assert "1.0 is the default version; make another one that: --switch 1.1" in refusal(install("--uninstall", "1.0"))
    assert "version 1.2 is not in" in refusal(install("--switch", "1.2"))
    done(install("--switch", "1.1"))
    assert run(both / "default/bin/chrun") == "chrun 1.1"
    done(install("--uninstall", "1.0"))
    shown = {path.name for path in both.iterdir() if path.name[0] != "."}
    assert shown == {"1.1", "default", "modulefiles", "modulefiles-tcl"}
    modules = listing(both / "modulefiles") + listing(both / "modulefiles-tcl")
    assert modules == ["chslurm", "chslurm/1.1.lua", "chslurm/default", "chslurm", "chslurm/.version", "chslurm/1.1"]
    assert os.readlink(both / "modulefiles/chslurm/default") == "1.1.lua"


def test_again_is_nothing_new_and_no_version_is_replaced(install: Install, one: Path, tmp_path: Path) -> None:
    inode = (one / "1.0/MANIFEST").stat().st_ino
    (one / "modulefiles/chslurm/1.0.lua").unlink()  # as when killed before it was made
    assert "1.0 is installed already" in done(install(version="1.0"))
    assert (one / "1.0/MANIFEST").stat().st_ino == inode
    before = listing(one)
    assert "modulefiles/chslurm/1.0.lua" in before
    other = make_fake_wheel(tmp_path / "other", "1.0", "changed")
    assert "it is there, made from other files; jobs may use it" in refusal(install(f"--wheel={other}"))
    assert listing(one) == before


def test_what_is_not_ours_stays(install: Install, one: Path) -> None:
    (one / "image.qcow2").touch()
    foreign = one / "1.0/share/notes.txt"
    foreign.touch()
    before = listing(one)
    assert "1.0: not installed by us: share/notes.txt; move it away" in refusal(install("--uninstall"))
    assert listing(one) == before
    foreign.unlink()
    package = next(one.glob("1.0/venv/lib/*/site-packages/chslurm"))
    (package / "__pycache__/__init__.cpython-399.pyc").touch()  # as another Python of root's leaves it
    assert "kept, because not made by us: image.qcow2" in done(install("--uninstall"))
    assert listing(one) == ["image.qcow2"]
    done(install(version="1.0"))  # a site's image is no hindrance


def test_a_folder_of_others_is_refused(install: Install, prefix: Path) -> None:
    prefix.mkdir(parents=True)
    (prefix / "precious").touch()
    for words in ([], ["--uninstall"], ["--switch", "1.0"]):
        answer = refusal(install(*words, version="" if words else "1.0"))
        assert "'precious' in it is not ours; name a folder that is new or empty" in answer
    assert "nothing is installed in" in refusal(install("--list"))
    assert listing(prefix) == ["precious"]
    shutil.rmtree(prefix)
    assert "no such folder" in refusal(install("--uninstall"))
    assert not prefix.exists()


def test_it_can_be_moved_and_links_lead_to_it(one: Path, model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere 'with' space"
    one.rename(moved)
    python = f"{moved}/1.0/venv/bin/python3"
    (tmp_path / "link").symlink_to(moved)
    (tmp_path / "mychrun").symlink_to("link/default/bin/chrun")
    assert run(moved / "1.0/bin/chrun", "--where").splitlines()[0] == python
    assert run(moved / "default/bin/chrun", "--where").splitlines()[0] == python  # a job keeps it when default changes
    assert run(tmp_path / "mychrun", "--where").splitlines()[0] == f"{tmp_path}/link/1.0/venv/bin/python3"
    assert run("sh", "-c", f'cd "{moved}/default/bin" && ./chrun --where').splitlines()[0] == python
    assert run(moved / "1.0/venv/bin/chslurm") == "chslurm 1.0"  # where a Prolog finds it, beside Python
    assert run("grep", "-rIl", str(model), moved) == "", "no file may know where it was made"
    assert subprocess.run([INSTALL, f"--prefix={moved}", "--uninstall"], check=False).returncode == 0
    assert not moved.exists()
    assert moved.parent.exists()


def test_what_the_user_has_for_python_does_not_count(one: Path, tmp_path: Path) -> None:
    (tmp_path / "bad/chslurm").mkdir(parents=True)
    (tmp_path / "bad/chslurm/__init__.py").write_text("raise SystemExit('bad')")
    bad = {"PYTHONPATH": f"{tmp_path}/bad", "PYTHONHOME": "/nowhere", "PYTHONSTARTUP": "x"}
    assert run("env", "-C", tmp_path / "bad", one / "1.0/bin/chrun", **bad) == "chrun 1.0"


def test_a_python_that_is_gone_is_told(one: Path) -> None:
    python = one / "1.0/venv/bin/python3"
    assert re.fullmatch(r"/.*/python3\.\d+", os.readlink(python))
    python.unlink()
    python.symlink_to("/usr/bin/python3.99")
    assert run(one / "1.0/bin/chrun") == (
        "chrun: can't start: /usr/bin/python3.99: not on this machine; install it, or chslurm anew with --python"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_may_not_write_is_told(install: Install, prefix: Path, model: Path, tmp_path: Path) -> None:
    nobody = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups")
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    program = tmp_path / "misc" / "install"  # where nobody can read it: the checkout may be root's
    for name in ("lib", "tree"):
        shutil.copytree(INSTALL.parent / name, program.parent / name)
    shutil.copy(INSTALL, program)
    advice = "Permission denied; be root, or name a --prefix of your own"
    assert advice in refusal(install(version="1.0", wrap=nobody, program=program))
    shutil.copytree(model, prefix, symlinks=True)
    before = listing(prefix)
    for words in (["--uninstall"], ["--switch", "1.1"]):
        assert advice in refusal(install(*words, wrap=nobody, program=program))
    assert listing(prefix) == before
    assert install("--list", wrap=nobody, program=program).stdout.startswith("1.0")
    assert run(*nobody, prefix / "default/bin/chrun") == "chrun 1.0"


@pytest.fixture
def waiting(both: Path) -> Iterator[subprocess.Popen[str]]:
    """A program of 1.0 that runs."""
    argv = [str(both / "default/bin/chrun"), "--wait"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        yield process
        process.kill()


def test_what_runs_keeps_its_version(install: Install, both: Path, waiting: subprocess.Popen[str]) -> None:
    done(install("--switch", "1.1"))
    users = rf"in use on this host by chrun \(pid {waiting.pid} of \w+\); wait, or remove it with --force"
    assert re.search(users, refusal(install("--uninstall", "1.0")))
    assert f"chrun (pid {waiting.pid} of " in install("--list").stdout
    argv = [str(both / "1.0/venv/bin/python3"), "-I", "-m", "chslurm.cli.oneguest", "--wait"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as step:
        assert step.stdout is not None
        assert step.stdout.readline() == "waiting\n"
        assert re.search(rf"[ ,]oneguest \(pid {step.pid} of ", install("--list").stdout)
        step.kill()
    assert "in use" in refusal(install("--uninstall"))
    assert run(both / "1.0/bin/chrun") == "chrun 1.0"
    done(install("--uninstall", "--force", "1.0"))
    assert install("--list").stdout.split() == ["1.1", "default"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("1.0", "1.0: a version belongs to --uninstall"),
        ("--list --uninstall", "not allowed with"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_usage(install: Install, words: str, message: str) -> None:
    result = install(*words.split())
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (64, "", 1)
    assert message in result.stderr


def test_what_can_not_be_installed(install: Install, prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "chslurm-2.0-py3-none-any.whl").write_text("no wheel")
    (tmp_path / "other-2.0-py3-none-any.whl").touch()
    (tmp_path / "python").write_text("#!/bin/sh\necho '[\"/usr/bin/python3.9\", 3, 9, true]'\n")
    (tmp_path / "number").write_text("#!/bin/sh\necho 7\n")
    (tmp_path / "crash").write_text(_CRASHES)
    for name in ("python", "number", "crash"):
        (tmp_path / name).chmod(0o755)
    for words, message in {
        f"--wheel={tmp_path}/chslurm-2.0-py3-none-any.whl": "not a wheel",
        f"--wheel={tmp_path}/chslurm-3.0-py3-none-any.whl": "No such file or directory",
        f"--wheel={tmp_path}/other-2.0-py3-none-any.whl": "not the name of a wheel of chslurm",
        f"--python={tmp_path}/none": "can't use --python .*: No such file or directory",
        f"--python={tmp_path}/python": r"it is Python 3\.9; chslurm needs 3\.11 or newer",
        f"--python={tmp_path}/number": "can't use --python .*: it is not a Python",
        f"--python={tmp_path}/crash": r"can't make a wheel of .*: OSError: \[Errno 28\] No space left on device$",
        "--python=/bin/echo": "can't use --python /bin/echo: it is not a Python",
        f"--wheelhouse={tmp_path}/none": "can't use --wheelhouse .*/none: no such folder",
        f"--wheelhouse={tmp_path}/wheels": "can't make a wheel of .*: No matching distribution found for hatch",
    }.items():
        assert re.search(message, refusal(install(words)))
        assert listing(prefix.parent.parent) == []


@pytest.mark.parametrize("verb", ["install", "uninstall", "switch"])
def test_killed_at_any_moment(
    install: Install, both: Path, wheels: dict[str, Path], model: Path, tmp_path: Path, verb: str
) -> None:
    """Each kill comes at another moment; afterwards each version that is seen works, and all goes on."""
    words = {
        "install": ["--default", f"--wheel={wheels['1.1']}", f"--wheelhouse={wheels['1.1'].parent}"],
        "uninstall": ["--uninstall", "1.1"],
        "switch": ["--switch", "1.1"],
    }[verb]
    chance = random.Random(verb)
    (tmp_path / "tmp").mkdir()
    for _ in range(4 if verb == "install" else 8):
        shutil.rmtree(both)
        shutil.copytree(model, both, symlinks=True)
        if verb == "install":
            done(install("--uninstall", "1.1"))
        argv = [str(INSTALL), f"--prefix={both}", *words]
        environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, start_new_session=True, env=environment)
        time.sleep(chance.uniform(0.05, 2.0 if verb == "install" else 0.4))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        check_whole(both)
    done(install(version="1.1"))
    check_whole(both)
    assert [*both.glob(".new-*"), *both.glob(".old-*"), *(tmp_path / "tmp").iterdir()] == []
    done(install("--uninstall"))
    assert not both.exists()


def check_whole(prefix: Path) -> None:
    """Whatever can be seen of a version works; whatever is the default, too."""
    for version in ("1.0", "1.1"):
        if (prefix / version).exists():
            assert run(prefix / version / "bin/chrun") == f"chrun {version}"
    assert run(prefix / "default/bin/chrun") in ("chrun 1.0", "chrun 1.1")
    assert (prefix / "modulefiles/chslurm/default").exists()
    named = (prefix / "modulefiles-tcl/chslurm/.version").read_text().split()[-1]
    assert (prefix / "modulefiles-tcl/chslurm" / named).exists()


def test_the_page_tells_every_option() -> None:
    page = (INSTALL.parent.parent / "docs" / "install.md").read_text()
    told = set(re.findall(r"^\| `(--[a-z]+)", page, re.M))
    assert told == set(re.findall(r"(--[a-z]+)\b", run(INSTALL, "--help"))) - {"--help"}
