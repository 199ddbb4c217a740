# SPDX-License-Identifier: Apache-2.0
"""Settings files as they lie on a disk, with their modes; what `chslurm config` and the launcher make of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from media import make_media

import chslurm.install
from chslurm.cli.chrun import chrun
from chslurm.cli.entry import run_command
from chslurm.cli.main import chslurm as umbrella
from chslurm.cli.oneguest import oneguest
from chslurm.host import configfiles, place
from chslurm.plan import User, plan_digest
from chslurm.siteconfig import SETTINGS, SITE_FILE_VARIABLE

NO_IMAGE = "chrun: Missing argument 'IMAGE'; no setting names one either (CHSLURM_IMAGE=FILE); see --help"
Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command: (exit status, standard output, standard error)."""

    def call(command: click.Command, *words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["x", *words])
        status = run_command(command, command.name or "")
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def user_file(no_settings: Path) -> Path:
    """The user's own file, still to be written."""
    path = no_settings / "user/chslurm/config.toml"
    path.parent.mkdir(parents=True, mode=0o755)
    return path


@pytest.fixture
def site_file(no_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The site's, by the variable that module files set: it may be the user's."""
    path = no_settings / "module/config.toml"
    path.parent.mkdir()
    monkeypatch.setenv(SITE_FILE_VARIABLE, str(path))
    path.write_text("")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory of an ordinary user outside of SLURM, with two images."""
    for name in [name for name in os.environ if name.startswith("SLURM") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    if os.geteuid() == 0:
        for reader in (place, chslurm.install):
            monkeypatch.setattr(reader, "read_user", lambda: User("user", 1000, 1000, ()))
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "image.qcow2", "64M"]
    subprocess.run(argv, check=True, timeout=20)
    shutil.copy("image.qcow2", "images/image.qcow2")
    return tmp_path


def plan_of(outcome: Outcome) -> dict[str, Any]:
    status, out, err = outcome
    assert (status, err) == (0, "")
    plan: dict[str, Any] = json.loads(out)
    return plan


def run(script: str, path: Path) -> None:
    """Do something to a file, in words of a shell."""
    subprocess.run(["sh", "-ec", script], env={**os.environ, "FILE": str(path), "FOLDER": str(path.parent)}, check=True)


def dry_run(invoke: Command, *words: str) -> dict[str, Any]:
    return plan_of(invoke(chrun, "--dry-run", *words))


# -- files that can't be relied on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["user_file", "site_file"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("chmod 664 $FILE", "others can change it; chmod go-w {path}"),
        ("chmod 646 $FILE", "others can change it; chmod go-w {path}"),
        ("chmod 775 $FOLDER", "others can change folder {folder}; chmod go-w {folder}"),
        ("chmod 757 $FOLDER", "others can change folder {folder}; chmod go-w {folder}"),
        ("rm $FILE; mkdir $FILE", "Is a directory"),
        ("rm $FILE; mkfifo $FILE", "not a regular file"),
        ("rm $FILE; ln -s nowhere $FILE", "No such file or directory"),
        ("printf '\\377' >$FILE", "not text"),
        ("yes '#' | head -c 70000 >$FILE", "longer than 65536 bytes"),
        ("echo 'rma = 1' >$FILE", "'rma': unknown here; did you mean ram?"),
        ("echo 'ram = true' >$FILE", "ram: true or false; it takes a size: MiB, or a text such as"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_is_wrong_is_one_line_before_anything_is_made(
    invoke: Command, request: pytest.FixtureRequest, which: str, harm: str, words: str
) -> None:
    path: Path = request.getfixturevalue(which)
    path.write_text('ram = "300M"\n')
    path.chmod(0o644)
    assert "settings" in dry_run(invoke, "image.qcow2")
    run(harm, path)
    before = sorted(Path().rglob("*"))
    for command, *arguments in ((chrun, "image.qcow2"), (oneguest, "image.qcow2"), (umbrella, "config", "show")):
        status, out, err = invoke(command, *arguments)
        assert (status, out) == (64, "")
        expected = f"can't use settings: {path}: {words.format(path=path, folder=path.parent)}"
        assert err.startswith(f"{command.name}: {expected}")
        assert len(err.splitlines()) == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.usefixtures("folder")
def test_files_of_others_are_refused(invoke: Command, user_file: Path) -> None:
    user_file.write_text("")
    os.chown(user_file, 65534, 65534)
    assert "it belongs to somebody else; take a copy" in invoke(chrun, "image.qcow2")[2]
    os.chown(user_file, 0, 0)
    os.chown(user_file.parent, 65534, 65534)
    assert f"folder {user_file.parent} belongs to somebody else" in invoke(chrun, "image.qcow2")[2]


@pytest.mark.usefixtures("folder")
def test_links_are_followed_to_the_file_that_counts(invoke: Command, user_file: Path, no_settings: Path) -> None:
    real = no_settings / "dotfiles"
    real.mkdir()
    user_file.symlink_to(real / "mine.toml")
    (real / "mine.toml").write_text("guests = 1")
    assert len(dry_run(invoke, "--ram=300M", "image.qcow2")["guests"]) == 1
    real.chmod(0o777)
    assert f"others can change folder {real}; chmod go-w {real}" in invoke(chrun, "image.qcow2")[2]
    real.chmod(0o1777)  # as /tmp
    assert len(dry_run(invoke, "--ram=300M", "image.qcow2")["guests"]) == 1


@pytest.mark.usefixtures("folder")
def test_a_home_that_is_none_has_no_settings(invoke: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("/dev/null", "/nowhere", ""):
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
        assert dry_run(invoke, "-n1", "--ram=300M", "image.qcow2")["settings"] == []


@pytest.mark.usefixtures("folder")
def test_home_in_the_site_s_file_is_not_what_the_user_says(
    invoke: Command, site_file: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody moves the site's limits to a folder of his own when no directory service answers."""

    def fail(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", fail)
    site_file.write_text('[limits]\nimage_folders = ["$HOME/vm"]\n')
    status, _, err = invoke(umbrella, "config", "check")
    told = (
        f"chslurm: can't use settings: {site_file}: limits.image_folders '$HOME/vm': can't find out the home directory"
    )
    assert (status, err.startswith(f"{told}; getent passwd")) == (64, True), err
    site_file.write_text("")
    user_file.write_text('jobbase = "$HOME/vm"\n')
    assert invoke(umbrella, "config", "check")[0] == 0


# -- which site's file ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_the_variable_counts_only_where_the_site_has_no_file(
    invoke: Command, site_file: Path, no_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_file.write_text("guests = 1")
    assert len(dry_run(invoke, "--ram=300M", "image.qcow2")["guests"]) == 1
    real = no_settings / "site/config.toml"
    real.parent.mkdir()
    real.write_text("guests = 2")
    monkeypatch.setattr(configfiles, "read_root_file", lambda path: path.read_text())
    assert len(dry_run(invoke, "--ram=300M", "image.qcow2")["guests"]) == 2
    monkeypatch.setenv(SITE_FILE_VARIABLE, "/nowhere/at/all")
    assert len(dry_run(invoke, "--ram=300M", "image.qcow2")["guests"]) == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [("rel/config.toml", "not a whole path"), ("/nowhere/config.toml", "/nowhere/config.toml: No such file")],
)
@pytest.mark.usefixtures("folder")
def test_a_variable_that_names_no_file(
    invoke: Command, monkeypatch: pytest.MonkeyPatch, value: str, words: str
) -> None:
    monkeypatch.setenv(SITE_FILE_VARIABLE, value)
    status, _, err = invoke(chrun, "image.qcow2")
    assert (status, len(err.splitlines())) == (64, 1)
    assert words in err


@pytest.mark.usefixtures("folder")
def test_root_s_file_is_read_as_root_s_files_are(invoke: Command, no_settings: Path) -> None:
    """In a folder that others can write to nothing is root's."""
    (no_settings / "site").mkdir()
    (no_settings / "site").chmod(0o777)
    (no_settings / "site/config.toml").write_text("guests = 2")
    status, _, err = invoke(chrun, "image.qcow2")
    assert status == 64
    assert f"can't use {no_settings}/site/config.toml: others than root can change folder" in err


# -- what holds -------------------------------------------------------------------------------------------------------


def test_show_tells_where_everything_comes_from(
    invoke: Command, user_file: Path, site_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_file.write_text('ram = "3G"\ntmp_size = 2048\n[limits]\nguests_per_node = 4\nreserved_ram = "1G"\n')
    user_file.write_text('tmp_size = "8G"\njobbase = "/scratch/$USER"\n')
    monkeypatch.setenv("CHSLURM_GUESTS", "3")
    monkeypatch.setenv("http_proxy", "http://me:secret@p")
    status, out, err = invoke(umbrella, "config", "show")
    assert (status, err) == (0, "")
    rows = {row[0]: row[1:] for row in (re.split(r"  +", line) for line in out.splitlines())}
    assert rows["ram"] == ["3 GiB", str(site_file)]
    assert rows["tmp_size"] == ["8 GiB", str(user_file)]
    assert rows["jobbase"][1] == str(user_file)
    assert "$" not in rows["jobbase"][0]
    assert rows["guests"] == ["3", "CHSLURM_GUESTS"]
    assert rows["cores"] == ["2", "default"]
    assert rows["guests_per_node"] == ["4", str(site_file)]
    assert rows["reserved_ram"] == ["1 GiB", str(site_file)]
    assert "secret" not in out
    assert out.endswith(f"site: {site_file}\nuser: {user_file}\n")
    assert {setting.name for setting in SETTINGS} <= rows.keys()

    status, out, err = invoke(umbrella, "config", "show", "--json")
    told = json.loads(out)
    assert list(told["settings"]) == [setting.name for setting in SETTINGS]
    assert told["settings"]["ram"] == {
        "value": "3G",
        "origin": "site",
        "place": str(site_file),
        "option": "--ram",
        "variable": "CHSLURM_RAM",
        "limited_by": "reserved_ram",
    }
    assert told["settings"]["guests"]["origin"] == "variable"
    assert told["limits"] == {
        "reserved_ram": {"value": 1024, "place": str(site_file)},
        "guests_per_node": {"value": 4, "place": str(site_file)},
    }
    assert told["files"]["user"] == {"path": str(user_file), "exists": True}


def test_show_without_any(invoke: Command, no_settings: Path) -> None:
    _, out, _ = invoke(umbrella, "config", "show")
    assert "\nno limits\n" in out
    assert f"user: {no_settings}/user/chslurm/config.toml (there is none)" in out
    assert {re.split("  +", line)[2] for line in out.splitlines()[1 : len(SETTINGS) + 1]} == {"default"}


def test_a_mistyped_variable_is_a_warning(
    invoke: Command, folder: Path, no_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher tells it before anything starts, and goes on."""
    monkeypatch.setenv("CHSLURM_RMA", "4G")
    warning = "variable 'CHSLURM_RMA': unknown; did you mean CHSLURM_RAM?"
    status, out, err = invoke(umbrella, "config", "check")
    assert (status, out, err) == (0, f"good: variables; there is no settings file\nwarning: {warning}\n", "")
    assert invoke(umbrella, "config", "show")[1].endswith(f"\nwarning: {warning}\n")
    assert json.loads(invoke(umbrella, "config", "show", "--json")[1])["warnings"] == [warning]
    assert warning in dry_run(invoke, "-n1", "image.qcow2")["warnings"]
    status, out, _ = invoke(chrun, "-n1", "--explain", "image.qcow2")
    assert (status, out.count(f"\nwarning:       {warning}\n")) == (0, 1)
    status, _, err = invoke(chrun, "-n1")
    assert (status, err) == (64, f"{NO_IMAGE}; {warning}\n")


@pytest.mark.parametrize("words", [(), ("--site",)])
def test_a_sample_passes_the_check_as_it_is_and_set(invoke: Command, tmp_path: Path, words: tuple[str, ...]) -> None:
    status, text, _ = invoke(umbrella, "config", "sample", *words)
    assert status == 0
    for content in (text, re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)):
        (tmp_path / "config.toml").write_text(content)
        (tmp_path / "config.toml").chmod(0o600)
        done = invoke(umbrella, "config", "check", *words, str(tmp_path / "config.toml"))
        assert done == (0, f"good: {tmp_path}/config.toml\n", "")
    assert ("[limits]" in text) == bool(words)
    assert ("guests_per_node" in text) == bool(words)


def test_check_says_what_is_wrong(
    invoke: Command, tmp_path: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = tmp_path / "draft.toml"
    draft.write_text("[limits]\nguests_per_node = 0\n")
    draft.chmod(0o600)
    status, out, err = invoke(umbrella, "config", "check", str(draft))
    assert (status, out) == (64, "")
    assert err == f"chslurm: can't use settings: {draft}: limits: only the site sets them; remove them\n"
    status, _, err = invoke(umbrella, "config", "check", "--site", str(draft))
    assert (status, "limits.guests_per_node '0': out of range" in err) == (64, True)
    assert invoke(umbrella, "config", "check")[1] == "good: variables; there is no settings file\n"
    user_file.write_text("guests = 3")
    assert invoke(umbrella, "config", "check")[1] == f"good: {user_file}, and variables\n"
    monkeypatch.setenv("CHSLURM_TUNNEL", "ipsec")
    status, _, err = invoke(umbrella, "config", "check")
    assert (status, err) == (
        64,
        "chslurm: CHSLURM_TUNNEL 'ipsec': unknown; use one of auto, wireguard, vxlan\n",
    )


# -- the launcher -----------------------------------------------------------------------------------------------------


def test_the_plan_takes_settings_and_says_so(
    invoke: Command, folder: Path, user_file: Path, site_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_file.write_text(f'image = "{folder}/image.qcow2"\nram = "300M"\ncores = 1\nhttp_proxy = "http://p:1"\n')
    user_file.write_text(f'jobbase = "{folder}/images"\njobname = "mine"\naccel = "auto"\n')
    monkeypatch.setenv("CHSLURM_TIME_LIMIT", "1:30")
    plan = dry_run(invoke, "-n", "1", "--ram", "310M")
    assert plan["image"]["layers"][0]["path"] == f"{folder}/image.qcow2"
    assert [(guest["cores"], guest["ram_mib"]) for guest in plan["guests"]] == [(1, 310)]
    assert re.fullmatch(rf"{folder}/images/mine\.\d{{8}}_\d{{6}}", plan["job_dir"])
    assert plan["time_limit_s"] == 90
    assert plan["environment"]["http_proxy"] == "http://p:1"
    assert plan["settings"] == [
        f"image {folder}/image.qcow2, cores 1, http_proxy http://p:1 from {site_file}",
        f"jobbase {folder}/images, jobname mine from {user_file}",
        "time_limit 0:01:30 from CHSLURM_TIME_LIMIT",
    ]
    status, out, _ = invoke(chrun, "-n", "1", "--explain")
    assert status == 0
    assert f"\nsettings:      image {folder}/image.qcow2, ram 300 MiB, cores 1" not in out  # in the order of the table
    assert f"\nsettings:      image {folder}/image.qcow2, cores 1, ram 300 MiB, http_proxy" in out
    assert "\nsettings:      time_limit 0:01:30 from CHSLURM_TIME_LIMIT\n" in out


@pytest.mark.usefixtures("folder")
def test_what_stands_after_dashes_is_never_the_image(
    invoke: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("job.sh").write_text("#!/bin/sh\n")
    Path("job.sh").chmod(0o755)
    words = ("--ram=300M", "--job", "job.sh")
    assert dry_run(invoke, *words, "image.qcow2", "--", "a", "--", "-b")["job"]["arguments"] == ["a", "--", "-b"]
    assert invoke(chrun, *words, "--", "a") == (
        64,
        "",
        f"{NO_IMAGE}\n",
    )
    monkeypatch.setenv("CHSLURM_IMAGE", "images/image.qcow2")
    plan = dry_run(invoke, *words, "--", "a", "-b")
    assert plan["job"]["arguments"] == ["a", "-b"]
    assert plan["image"]["layers"][0]["path"] == f"{folder}/images/image.qcow2"
    assert plan["settings"] == ["image images/image.qcow2 from CHSLURM_IMAGE"]


@pytest.mark.parametrize(
    ("limit", "words", "told"),
    [
        ("reserved_cores = 4096", "-n1", "can't use node .*: of its .* the site reserves 4096"),
        ('reserved_ram = "900T"', "-n1", "can't use node .*: of its .* the site reserves 900 TiB"),
        ("guests_per_node = 1", "-n2", "can't place 2 guests on node .*: the site allows 1"),
        ('image_folders = ["{folder}/images"]', "-n1", "can't use image '.*/image.qcow2': it is not in a folder"),
        ('networks = ["rootless"]', "--network=site", "can't use --network site: the site does not allow it"),
        ('tunnels = ["wireguard"]', "--tunnel=vxlan", "can't use --tunnel vxlan: the site does not allow it"),
        ("workstations = []", "-n1", "can't run guests on .* outside of a SLURM job: .*; use salloc or sbatch"),
    ],
)
def test_limits_hold_for_whoever_boots(
    invoke: Command, folder: Path, site_file: Path, limit: str, words: str, told: str
) -> None:
    """The launcher, one guest by hand, and the checks of images and networks."""
    site_file.write_text(f"[limits]\n{limit.format(folder=folder)}\n")
    name = limit.split(" ")[0]
    calls: list[tuple[click.Command, ...] | tuple[Any, ...]] = [(chrun, words, "--ram=300M", "image.qcow2")]
    if words == "-n1":
        calls += [
            (oneguest, "image.qcow2"),
            (umbrella, "image", "check", "image.qcow2"),
            (umbrella, "net", "check", "-n1", "image.qcow2"),
        ]
    before = sorted(Path().rglob("*"))
    for command, *arguments in calls:
        status, out, err = invoke(command, *arguments)
        assert (status, out, len(err.splitlines())) == (64, "", 1)
        assert re.match(f"{command.name}: {told}", err), err
        assert f"limits.{name} in {site_file}" in err
    assert sorted(Path().rglob("*")) == before


def test_limits_are_in_nobody_s_way_who_keeps_them(invoke: Command, folder: Path, site_file: Path) -> None:
    site_file.write_text(
        f'[limits]\nimage_folders = ["{folder}/link"]\nworkstations = ["{socket.gethostname()}"]\n'
        'networks = ["rootless"]\ntunnels = ["wireguard"]\nguests_per_node = 1\nreserved_ram = "64M"\n'
    )
    (folder / "link").symlink_to("images")
    (folder / "other").symlink_to("images/image.qcow2")
    plan = dry_run(invoke, "-n1", "--ram=300M", "other")
    assert (plan["network"], plan["tunnel"]) == ("rootless", "wireguard")
    assert plan["settings"] == [f"64 MiB RAM reserved, network rootless, tunnel wireguard from {site_file}"]


@pytest.mark.usefixtures("folder")
def test_a_link_from_an_allowed_folder_leads_nowhere(invoke: Command, folder: Path, site_file: Path) -> None:
    site_file.write_text(f'[limits]\nimage_folders = ["{folder}/images"]\n')
    (folder / "images/mine.qcow2").symlink_to(folder / "image.qcow2")
    layer = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "image.qcow2", "-F", "qcow2", "layer.qcow2"]
    subprocess.run(layer, check=True, timeout=20)
    for image in ("images/mine.qcow2", "layer.qcow2"):
        status, _, err = invoke(chrun, "-n1", "--ram=300M", image)
        assert (status, "it is not in a folder that the site allows" in err) == (64, True)


@pytest.mark.usefixtures("folder")
def test_inside_a_job_any_node_is_a_place_for_guests(
    invoke: Command, site_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell of salloc on a login node is not inside: slurmd names the node to what it starts."""
    site_file.write_text("[limits]\nworkstations = []\n")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    words = ("--dry-run", "--ram=300M", "image.qcow2")
    assert invoke(oneguest, *words)[0] == 64
    monkeypatch.setenv("SLURMD_NODENAME", "cn001")
    assert plan_of(invoke(oneguest, *words))["mode"] == "workstation"


def test_an_installation_keeps_limits_too(invoke: Command, folder: Path, site_file: Path) -> None:
    (folder / "good.iso").write_bytes(make_media())
    site_file.write_text("[limits]\nworkstations = []\n")
    words = ("--boot", "good.iso", "image.qcow2")
    assert "outside of a SLURM job: the site does not allow it" in invoke(oneguest, *words)[2]
    site_file.write_text(f'[limits]\nimage_folders = ["{folder}/images"]\n')
    status, _, err = invoke(oneguest, *words)
    assert (status, f"can't use --boot '{folder}/good.iso': it is not in a folder" in err) == (64, True)


def test_a_task_of_the_step_reads_no_settings(user_file: Path, site_file: Path, tmp_path: Path) -> None:
    """The plan says it all, whatever settings have become meanwhile."""
    for path in (user_file, site_file):
        path.write_text("nonsense")
    (tmp_path / "plan.json").write_text("{}")
    argv = [sys.executable, "-m", "chslurm.cli.oneguest", "--plan", str(tmp_path / "plan.json")]
    argv += ["--cluster-id", "0" * 16, "--digest", plan_digest(b"{}"), "--host-number", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert "can't use settings" not in done.stdout + done.stderr
    assert "can't read the plan" in done.stdout
    by_hand = [sys.executable, "-m", "chslurm.cli.oneguest", "image.qcow2"]
    done = subprocess.run(by_hand, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, f"can't use settings: {site_file}" in done.stderr) == (64, True)


def test_the_doctor_looks_at_what_settings_say(invoke: Command, folder: Path, site_file: Path) -> None:
    site_file.write_text(f'image = "{folder}/nothing.qcow2"\njobbase = "{folder}/images"\n')
    rows = {row["topic"]: row for row in json.loads(invoke(umbrella, "doctor", "--json")[1])}
    assert "nothing.qcow2" in rows["image"]["found"]


@pytest.mark.parametrize(
    ("limits", "words", "told"),
    [
        ('image_folders = ["{folder}/media"]', "", "can't use image '.*/image.qcow2': it is not in a folder"),
        (
            'networks = ["site"]',
            "",
            "can't install from --boot: its network is rootless, which the site does not allow",
        ),
        ("reserved_cores = 4096", "", "can't use node .*: of its .* the site reserves 4096"),
        ("reserved_cores = 1", "--cores=4096", "can't give 1 guests 4096 cores each on node .*: 7 are left of what"),
        ('reserved_ram = "1M"', "--ram=900T", "can't give this machine 900 TiB RAM: the site leaves .*; ask for less"),
    ],
)
def test_what_an_installation_may_not_have(
    invoke: Command, folder: Path, site_file: Path, monkeypatch: pytest.MonkeyPatch, limits: str, words: str, told: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    (folder / "media").mkdir()
    (folder / "media/good.iso").write_bytes(make_media())
    site_file.write_text(f"[limits]\n{limits.format(folder=folder)}\n")
    status, _, err = invoke(oneguest, *words.split(), "--boot", "media/good.iso", "image.qcow2")
    assert (status, len(err.splitlines())) == (64, 1), err
    assert re.search(told, err), err
    assert str(site_file) in err
