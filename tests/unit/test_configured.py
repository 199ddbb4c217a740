# SPDX-License-Identifier: Apache-2.0
"""Settings: the later wins, whatever is wrong is one line, and what was chosen is told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.configfile import Config, Person, parse_config
from chslurm.configured import Origin, Settings, choose_values, list_limits, make_settled_request, render_limits
from chslurm.errors import UsageError
from chslurm.kinds import NetworkKind, TunnelKind
from chslurm.limits import NO_LIMITS, Limits
from chslurm.request import NOTHING_ASKED, RawOptions, Request
from chslurm.siteconfig import LIMITS, LIMITS_TABLE, SETTINGS, VARIABLES, Kind, Setting, render_sample

SITE, USER = "/etc/charliecloud/config.toml", "/home/me/.config/chslurm/config.toml"
ME = Person("/home/me", "me")
CWD = PurePath("/work")
TOP = Path(__file__).parents[2]
FOR_BUILDING = {"CHSLURM_DISK_MIB", "CHSLURM_APT_SOURCES"}
"""Told to the scripts that make an image, and read by nobody else."""


def parse(text: str, *, site: bool = True) -> Config:
    return parse_config(text, SITE if site else USER, ME, site=site)


def choose(site: str = "", user: str = "", environment: Mapping[str, str] | None = None) -> Settings:
    configs = [(Origin.SITE, parse(site)), (Origin.USER, parse(user, site=False))]
    return choose_values(configs, environment or {})


def settle(settings: Settings, *, in_job: bool = False, **options: Any) -> Request:
    asked: RawOptions = {**NOTHING_ASKED, **{"image": "image.qcow2", **options}}  # type: ignore[typeddict-item]
    return make_settled_request(asked, CWD, settings, in_job=in_job)


def refusal_of(text: str, *, site: bool = True) -> str:
    with pytest.raises(UsageError) as error:
        parse(text, site=site)
    return str(error.value)


# -- who wins ---------------------------------------------------------------------------------------------------------

OF_OPTIONS = [setting for setting in SETTINGS if setting.option]
VALUES: dict[str, list[str]] = {
    "image": ["/a.qcow2", "/b.qcow2", "/c d.qcow2", "/e"],
    "guests": ["3", "4", "5", "6"],
    "cores": ["1", "3", "4", "5"],
    "ram": ["300M", "1G", "4096", "2T"],
    "jobbase": ["/a", "/b", "/c", "/d"],
    "jobname": ["a", "b", "c", "d"],
    "tmp_size": ["300M", "1G", "4097", "2T"],
    "log_size": ["8M", "1G", "9", "2T"],
    "tmp_dir": ["/a", "/b", "/c", "/d"],
    "time_limit": ["1", "2:00:00", "3", "1-00"],
    "boot_timeout": ["3", "4", "5", "6"],
    "accel": ["kvm", "tcg", "auto", "kvm"],
    "network": ["site", "rootless", "auto", "site"],
    "tunnel": ["wireguard", "vxlan", "auto", "vxlan"],
}
FIELDS = {
    "guests": "guest_ct", "ram": "ram_mib", "jobbase": "job_base", "jobname": "job_name", "tmp_size": "tmp_mib",
    "log_size": "log_mib", "time_limit": "time_limit_s", "boot_timeout": "boot_timeout_s", "accel": "accelerator",
}  # fmt: skip


def as_toml(setting: Setting, text: str) -> str:
    bare = setting.kind in (Kind.COUNT, Kind.SECONDS)
    return f"{setting.name} = {text if bare else json.dumps(text)}\n"


@given(
    setting=st.sampled_from(OF_OPTIONS),
    said=st.lists(st.none() | st.integers(0, 3), min_size=4, max_size=4),
    in_job=st.booleans(),
)
def test_the_later_wins(setting: Setting, said: list[int | None], in_job: bool) -> None:
    """Of site, user, variable and option, in this order; and it is as if the option had said it."""
    values = VALUES[setting.name]
    texts = [None if index is None else values[index] for index in said]
    site, user = ("" if text is None else as_toml(setting, text) for text in texts[:2])
    environment = {} if texts[2] is None else {setting.variable: texts[2]}
    settings = choose(site, user, environment)
    if setting.name == "image" and texts == [None] * 4:
        return
    options = {setting.name: texts[3]}  # None: not given
    request = settle(settings, in_job=in_job, **options)

    of_settings = None if setting.workstation and in_job else next((t for t in texts[2::-1] if t is not None), None)
    winner = of_settings if texts[3] is None else texts[3]
    only: dict[str, Any] = {} if winner is None else {setting.name: winner}
    alone = settle(choose(), **only)
    field = FIELDS.get(setting.name, setting.name)
    assert getattr(request, field) == getattr(alone, field)
    places = [place for place, text in zip((SITE, USER, setting.variable), texts[:3], strict=True) if text is not None]
    assert settings.values[setting.name].place == (places[-1] if places else "")
    if texts[3] is not None or of_settings is None:
        assert request.settings == ()
    elif setting.name != "jobname" and winner != setting.default:
        (told,) = request.settings
        assert told.startswith(f"{setting.name} ")
        assert told.endswith(f" from {places[-1]}")


@given(network=st.sampled_from(["auto", "site", "rootless"]), user=st.booleans(), option=st.booleans())
def test_nobody_gets_around_limits(network: str, user: bool, option: bool) -> None:
    said = f'network = "{network}"\n'
    settings = choose(f'{said}[limits]\nnetworks = ["rootless"]', said if user else "", {"CHSLURM_NETWORK": network})
    try:
        request = settle(settings, network=network if option else None)
    except UsageError as error:
        assert "the site does not allow it (limits.networks in /etc/charliecloud/config.toml)" in str(error)  # noqa: PT017
        assert network == "site"
    else:
        assert network != "site"
        assert request.network is NetworkKind.ROOTLESS


def test_empty_variables_say_nothing() -> None:
    settings = choose('image = "/x.qcow2"', environment={"CHSLURM_IMAGE": "", "CHSLURM_RAM": ""})
    assert settings.values["image"].place == SITE
    assert settings.values["ram"].origin is Origin.DEFAULT


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("CHSLURM_RMA", "CHSLURM_RAM"),
        ("CHSLURM_ram", "CHSLURM_RAM"),
        ("CHSLURM_CORE", "CHSLURM_CORES"),
        ("CHSLURM_TIMELIMIT", "CHSLURM_TIME_LIMIT"),
        ("CHSLURM_CLSUTER", "CHSLURM_CLUSTER"),
        ("CHSLURM_DEBUGG", "CHSLURM_DEBUG"),
        ("CHSLURM_SITE_CONF", "CHSLURM_SITE_CONFIG"),
    ],
)
def test_a_mistyped_variable_is_told(mistyped: str, meant: str) -> None:
    warning = f"variable '{mistyped}': unknown; did you mean {meant}?"
    assert settle(choose(environment={mistyped: "4G"})).warnings == (warning,)
    assert settle(choose(environment={mistyped: ""})).warnings == ()


def test_variables_of_others_are_none_of_ours() -> None:
    """Those of tests, `misc/` and modules are passed over."""
    found = {name for folder in ("misc", "tests/real", "tests/docs") for name in list_variables(TOP / folder)}
    others = {*found, "CHSLURM_VERSION", "CHSLURM_HOME", "RMA", "SLURM_RMA"} - {*VARIABLES}
    assert {"CHSLURM_BOX", "CHSLURM_USER", "CHSLURM_STATE"} < others
    assert choose(environment=dict.fromkeys(others, "4")).warnings == ()
    assert choose(environment={"CHSLURM_RAM": "4G", "CHSLURM_CLUSTER": "c"}).warnings == ()


def test_all_variables_that_are_read_are_known() -> None:
    assert list_variables(TOP / "chslurm") - {*VARIABLES} == FOR_BUILDING


def list_variables(folder: Path) -> set[str]:
    """The names of variables in the files below a folder."""
    texts = [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {name for text in texts for name in re.findall(r"\bCHSLURM_[A-Z_]*[A-Z]\b", text)}


def test_an_image_has_to_be_named_somewhere() -> None:
    assert settle(choose('image = "/x.qcow2"'), image=None).image == PurePath("/x.qcow2")
    assert settle(choose(environment={"CHSLURM_IMAGE": "x"}), image=None).image == CWD / "x"
    with pytest.raises(UsageError, match="Missing argument 'IMAGE'; no setting names one"):
        settle(choose(), image=None)
    with pytest.raises(UsageError, match="; see --help; variable 'CHSLURM_IMGE': unknown; did you mean CHSLURM_IMAGE"):
        settle(choose(environment={"CHSLURM_IMGE": "x"}), image=None)
    with pytest.raises(UsageError, match="IMAGE: empty"):
        settle(choose('image = "/x.qcow2"'), image="")


def test_sizes_for_a_workstation_are_not_for_jobs() -> None:
    settings = choose('cores = 7\nram = "7G"')
    job = settle(settings, in_job=True, my_size=True, ram="1G")
    assert (job.cores, job.ram_mib, job.settings) == (None, 1024, ())
    desk = settle(settings)
    assert (desk.cores, desk.ram_mib, desk.settings) == (7, 7168, (f"cores 7, ram 7 GiB from {SITE}",))


def test_what_differs_is_told_by_place() -> None:
    settings = choose(
        'tmp_size = 4096\nram = "3G"\naccel = "auto"\n[limits]\nreserved_cores = 1\nreserved_ram = 512\n'
        'tunnels = ["vxlan"]',
        'tmp_dir = "/local"\nguests = 3',
        {"CHSLURM_RAM": "5G"},
    )
    assert settle(settings, guests="2").settings == (
        "ram 5 GiB from CHSLURM_RAM",
        f"tmp_dir /local from {USER}",
        f"1 core reserved, 512 MiB RAM reserved, tunnel vxlan from {SITE}",
    )


# -- proxies ----------------------------------------------------------------------------------------------------------


def test_proxies_of_files_are_for_who_has_none() -> None:
    text = 'http_proxy = "http://p:1"\nno_proxy = "localhost"'
    assert settle(choose(text)).proxies == {"http_proxy": "http://p:1", "no_proxy": "localhost"}
    for environment in ({"http_proxy": "http://q:1"}, {"HTTP_PROXY": ""}):
        settings = choose(text, environment=environment)
        assert settle(settings).proxies == {"no_proxy": "localhost"}
        assert settings.values["http_proxy"].place == next(iter(environment))


def test_passwords_of_proxies_are_neither_taken_from_files_nor_shown() -> None:
    assert refusal_of('http_proxy = "http://me:secret@p:1"') == (
        f"can't use settings: {SITE}: http_proxy: holds a password;"
        " set the variable http_proxy in its place: others may read this file"
    )
    settings = choose(environment={"http_proxy": "http://me:secret@p:1"})
    assert "secret" not in settings.values["http_proxy"].text


# -- what is wrong ----------------------------------------------------------------------------------------------------

WRONG = {
    Kind.COUNT: ['"4"', "true", "1.5", "[1]", "0", "-1", "1979-05-27", "99999999999999999999", "{a = 1}"],
    Kind.SECONDS: ['"4"', "true", "0"],
    Kind.SIZE: ['"4X"', "true", "[]", '"-1"', '"99999T"'],
    Kind.TIME: ['"soon"', "false", "0", "[1]"],
    Kind.WORD: ["1", "[]", "true", '"a\\u0007b"'],
    Kind.PATH: ['"rel"', '""', "1", '"$OTHER/x"', '"~me/x"', '"/a\\nb"', '["/a"]'],
    Kind.PATHS: ['"/a"', '["rel"]', "[1]", '["/a", ""]'],
    Kind.CHOICE: ['"other"', "1", '["auto"]', '""'],
    Kind.CHOICES: ['["other"]', '"vxlan"', '["auto"]', "[]", "[1]"],
    Kind.HOSTS: ['"ws1"', '["ws[1-"]', '["-x"]', "[1]", '["a b"]'],
}


@pytest.mark.parametrize("setting", [*SETTINGS, *LIMITS], ids=lambda setting: setting.name)
def test_every_wrong_value_is_one_line_that_names_it(setting: Setting) -> None:
    prefix = f"[{LIMITS_TABLE}]\n" if setting in LIMITS else ""
    for value in WRONG[setting.kind]:
        if setting.name == "reserved_cores" and value == "0":
            continue
        text = refusal_of(f"{prefix}{setting.name} = {value}\n")
        called = f"{LIMITS_TABLE}.{setting.name}" if prefix else setting.name
        assert text.startswith(f"can't use settings: {SITE}: {called}"), (value, text)
        assert text.isprintable()
        assert len(text) < 400


@pytest.mark.parametrize("setting", OF_OPTIONS, ids=lambda setting: setting.name)
def test_a_wrong_variable_is_named(setting: Setting) -> None:
    wrong = {Kind.WORD: "a/b", Kind.PATH: "a\nb"}.get(setting.kind, "what?")
    with pytest.raises(UsageError) as error:
        choose(environment={setting.variable: wrong})
    assert str(error.value).startswith(f"{setting.variable} ")
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rma = 1", "'rma': unknown here; did you mean ram?"),
        ("tmp-size = 1", "'tmp-size': unknown here; did you mean tmp_size?"),
        ("RAM = 1", "'RAM': unknown here; did you mean ram?"),
        ("xyzzy = 1", "'xyzzy': unknown here; known are image, guests, cores,"),
        ("guests_per_node = 1", "'guests_per_node': unknown here; it is to stand below the line [limits]"),
        ("[limits]\nram = 1", "'limits.ram': unknown here; it is to stand above the line [limits]"),
        ("[limits]\nimage_folder = 1", "'limits.image_folder': unknown here; did you mean image_folders?"),
        ("[limit]\n", "'limit': unknown here; did you mean limits?"),
        ("limits = 1", "limits: not a table; write [limits]"),
        ("ram", "Expected '=' after a key"),
        ("ram = 1\nram = 2\n", "Cannot overwrite a value (at line 2"),
        ('"a\\u001b[0mb" = 1', "'a\\x1b[0mb': unknown here"),
        ("a = " + "[" * 60000, "nested too deeply"),
        (f"guests = {'1' * 5000}", "can't use settings"),
        (f"ram = 0x{'f' * 6000}", "ram: a number of more than 64 bits; write ram ="),
        (f"[limits]\nguests_per_node = 0x{'f' * 6000}", "limits.guests_per_node: a number of more than 64 bits"),
    ],
)
def test_what_is_no_setting(text: str, words: str) -> None:
    told = refusal_of(text)
    assert told.startswith(f"can't use settings: {SITE}: ")
    assert words in told
    assert told.isprintable()


def test_users_set_no_limits() -> None:
    assert refusal_of("[limits]\nreserved_cores = 0", site=False) == (
        f"can't use settings: {USER}: limits: only the site sets them; remove them"
    )


NAMES = st.sampled_from([setting.name for setting in (*SETTINGS, *LIMITS)] + ["[limits]", "x"])


@given(st.one_of(st.text(), st.lists(st.tuples(NAMES, st.text(alphabet='"[]0,5a\\/$~{}=\n#x -'))).map(
    lambda lines: "".join(f"{name} = {value}\n" for name, value in lines)
)))  # fmt: skip
def test_any_text_is_settings_or_one_line(text: str) -> None:
    for site in (True, False):
        try:
            parse(text, site=site)
        except UsageError as error:
            assert str(error).isprintable()  # noqa: PT017
            assert str(error).startswith("can't use settings: /")  # noqa: PT017


# -- what is right ----------------------------------------------------------------------------------------------------


def test_paths_know_the_user() -> None:
    values = parse('jobbase = "/scratch/$USER/${USER}x"\ntmp_dir = "~"\nimage = "$HOME/vm/~x"').values
    assert values == {"jobbase": "/scratch/me/mex", "tmp_dir": "/home/me", "image": "/home/me/vm/~x"}


def test_all_limits() -> None:
    limits = parse(
        '[limits]\nreserved_cores = 1\nreserved_ram = "1G"\nguests_per_node = 4\nimage_folders = ["/data/vm", "~/vm"]\n'
        'networks = ["rootless", "rootless"]\ntunnels = ["vxlan", "wireguard"]\nworkstations = ["ws[08-10]", "vis"]'
    ).limits
    assert limits == Limits(
        reserved_cores=1,
        reserved_ram_mib=1024,
        guests_per_node=4,
        image_folders=("/data/vm", "/home/me/vm"),
        networks=(NetworkKind.ROOTLESS,),
        tunnels=(TunnelKind.VXLAN, TunnelKind.WIREGUARD),
        workstations=("ws08", "ws09", "ws10", "vis"),
        file=SITE,
    )
    assert list(list_limits(limits)) == [setting.name for setting in LIMITS]
    assert render_limits(limits)["reserved_ram"] == "1 GiB"
    assert render_limits(Limits(workstations=())) == {"workstations": "none"}
    assert list_limits(NO_LIMITS) == {}


@pytest.mark.parametrize("site", [True, False])
def test_samples_can_be_read_as_they_are_and_with_everything_set(site: bool) -> None:
    text = render_sample(site=site)
    assert parse(text, site=site).values == {}
    assert parse(text, site=site).limits == NO_LIMITS
    config = parse(re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE), site=site)
    assert list(config.values) == [setting.name for setting in SETTINGS]
    assert list(list_limits(config.limits)) == ([setting.name for setting in LIMITS] if site else [])


def test_defaults_are_those_of_the_launcher() -> None:
    """Where a default is a value and no description, setting it changes nothing."""
    names = ("ram", "jobname", "tmp_size", "accel", "network", "tunnel")
    text = "cores = 2\n" + "".join(f'{it.name} = "{it.default}"\n' for it in SETTINGS if it.name in names)
    request, alone = settle(choose(text)), settle(choose())
    assert request.settings == ()
    assert (request.job_name, request.tmp_mib) == (alone.job_name, alone.tmp_mib)
    assert (request.accelerator, request.network, request.tunnel) == (alone.accelerator, alone.network, alone.tunnel)
