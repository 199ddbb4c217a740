# SPDX-License-Identifier: Apache-2.0
"""A network that root makes on a host: made, repeated, broken off, removed; nothing else of the host is touched."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from lab import Lab
from sitelab import CONFIG, OTHER_USER, PYTHON, SETTINGS, USER, Site

STEPS = 5

CRASH = """
import os, signal
from chslurm.host import sitefabric
real, done = sitefabric._do, []
def do(step):
    if len(done) == {k}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(step)
    done.append(step)
sitefabric._do = do
sitefabric.start_network(sitefabric.read_site(__import__("pathlib").Path("{config}")), print)
"""


@pytest.fixture
def site(lab: Lab) -> Site:
    return Site(lab)


@pytest.fixture(scope="module")
def idle() -> Iterator[Site]:
    """A host on which nothing is started: tests share it."""
    with Lab() as lab:
        yield Site(lab)


def test_start_status_stop(site: Site) -> None:
    before = site.snapshot()
    assert (site.do("status").returncode, site.do("status").stdout) == (3, "down\n")
    assert site.start().stdout == "up: chbr0 with 3 TAPs of nobody, NAT to eth0\n"
    status = site.do("status")
    assert (status.returncode, status.stdout.splitlines()[1]) == (0, "in use by guests: none")
    during = site.snapshot()
    assert before["rules"] in during["rules"]
    changed = {line for line in during["settings"].splitlines() if "/chbr0/" not in line and "/chtap" not in line}
    assert changed ^ set(before["settings"].splitlines()) == {
        f"/proc/sys/net/ipv4/conf/eth0/forwarding:{value}" for value in (0, 1)
    }
    assert during["forward"] == "0\n"
    assert site.host.sh("stat -c '%u %a' /run/chslurm-site /run/chslurm-site/*").split("\n")[:2] == ["0 700", "0 600"]
    site.stop()
    assert site.snapshot() == before
    assert site.do("status").returncode == 3


def test_every_verb_may_be_repeated(site: Site) -> None:
    before = site.snapshot()
    site.stop()
    assert site.snapshot() == before
    site.start()
    up = site.snapshot()
    site.start()
    assert site.snapshot() == up
    for verb in ("restart", "restart"):
        assert site.do(verb).returncode == 0
    assert site.do("status").returncode == 0
    site.stop()
    site.stop()
    assert site.snapshot() == before


def test_other_settings_are_told_and_taken_on_by_restart(site: Site) -> None:
    before = site.snapshot()
    site.start()
    site.write_settings(SETTINGS.replace("TAP_CT=3", "TAP_CT=1"))
    assert "restart takes on its new settings" in site.start().stdout
    assert "chtap3" in site.taps()
    assert site.do("restart").returncode == 0
    assert "chtap1" in site.taps()
    assert "chtap2" not in site.taps()
    site.write_settings("garbage")
    site.stop()  # whatever the settings are by now
    assert site.snapshot() == before


DAMAGES = (
    "ip link del chtap2",
    "ip link set chbr0 down",
    "ip link set chtap1 nomaster",
    "ip link del chbr0",
    "ip addr flush dev chbr0",
    "nft delete table netdev chslurm_w",
    "nft flush chain inet chslurm_w output",
    "nft delete element bridge chslurm_w ports { chtap3 }",
    "sysctl -qw net.ipv4.conf.eth0.forwarding=0",
)
FORGOTTEN = ("rm /run/chslurm-site/workstation.json", "echo nonsense >/run/chslurm-site/workstation.json")


MEND = """
import json, pathlib, subprocess, sys
from chslurm.host import sitefabric
site = sitefabric.read_site(pathlib.Path("{config}"))
for damage in json.load(sys.stdin):
    subprocess.run(["sh", "-ec", damage], check=True)
    said = []
    seen = sitefabric.read_condition(said.append)
    sitefabric.start_network(site, lambda text: None)
    mended = sitefabric.read_condition(lambda text: None)
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    print(json.dumps([damage, seen, said[-1], mended, rules]))
"""


def mend(site: Site, damages: Sequence[str]) -> set[str]:
    """Do each damage; it must be seen, and be mended by a start. Return the rules that there were then."""
    argv = site.host.argv(*PYTHON, "-c", MEND.format(config=CONFIG))
    done = subprocess.run(argv, input=json.dumps(damages), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    right = ["broken", "broken: start repairs it, stop removes it", "up"]
    assert [told for *told, _ in found] == [[damage, *right] for damage in damages]
    return {rules for *_, rules in found}


def test_damage_is_seen_and_mended(site: Site) -> None:
    before = site.snapshot()
    site.start()
    whole = site.host.sh("nft list ruleset")
    assert mend(site, DAMAGES) == {whole}
    site.stop()
    assert site.snapshot() == before
    site.start()
    mend(site, FORGOTTEN)  # nobody knows that eth0 did not forward, after that


def test_a_rule_that_is_missing_is_noticed_in_any_chain(site: Site) -> None:
    site.start()
    whole = site.host.sh("nft list ruleset")
    listed = json.loads(site.host.sh("nft -j list ruleset"))["nftables"]
    rules = [item["rule"] for item in listed if "rule" in item and item["rule"]["table"] != "other"]
    chains = {f"{rule['family']} {rule['table']} {rule['chain']}": None for rule in rules}
    assert {" ".join(chain.split()[:2]) for chain in chains} == {
        *("inet chslurm_w", "inet chslurm_w_again", "netdev chslurm_w", "bridge chslurm_w", "bridge chslurm_w_again")
    }
    last = "$(nft -a list chain {0} | sed -n 's/.* # handle //p' | tail -n 1)"
    assert mend(site, [f"nft delete rule {chain} handle {last.format(chain)}" for chain in chains]) == {whole}


@pytest.mark.parametrize("k", range(STEPS + 1))
def test_killed_at_any_step_stop_leaves_nothing(site: Site, k: int) -> None:
    before = site.snapshot()
    code = CRASH.format(k=k, config=CONFIG)
    done = site.host.run(*PYTHON, "-c", code)
    assert done.returncode != 0, "it was to be killed"
    if k < STEPS:  # nothing is up before the last step
        assert "UP" not in {flag for line in json.loads(site.host.sh("ip -j link") or "[]") for flag in line["flags"]
                            if line["ifname"].startswith(("chtap", "chbr"))}  # fmt: skip
    site.stop()
    assert site.snapshot() == before


def test_killed_at_random_and_started_again(site: Site) -> None:
    before = site.snapshot()
    chance = random.Random(7)
    for _ in range(12):
        argv = site.host.argv("setsid", *PYTHON, "-m", "chslurm.cli.main", "net", "workstation")
        verb = chance.choice(["start", "restart", "stop"])
        process = subprocess.Popen([*argv, verb, "--config", CONFIG], stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.1, 0.7))
        process.kill()
        process.wait()
    site.start()
    assert site.do("status").returncode == 0
    site.stop()
    assert site.snapshot() == before


IMPATIENT = """
import runpy
from chslurm.host import rules, sitefabric
rules.NFT_TIMEOUT_S = sitefabric.NFT_TIMEOUT_S = 1.0
runpy.run_module("chslurm.cli.main", run_name="__main__")
"""


@pytest.mark.parametrize("script", ['case "$*" in *-f*) exit 1 ;; *) exec $real "$@" ;; esac', "exec sleep 60"])
def test_without_filters_no_link_stays(site: Site, script: str) -> None:
    before = site.snapshot()
    site.host.hide_by("nft", script)
    began = time.monotonic()
    done = site.host.run(*PYTHON, "-c", IMPATIENT, "net", "workstation", "start", "--config", CONFIG)
    assert time.monotonic() - began < 10
    assert done.returncode == 70
    assert "can't" in done.stderr
    assert site.taps() == ""
    site.host.show_again("nft")
    site.stop()
    assert site.snapshot() == before


@pytest.mark.parametrize("n", range(1, 4))
def test_an_ip_that_fails_leaves_nothing(site: Site, n: int) -> None:
    """The n-th batch fails; the first two make links, the others remove them."""
    before = site.snapshot()
    count = 'case "$*" in *-batch*) echo x >>/run/fake-count; [ $(wc -l </run/fake-count) = '
    site.host.hide_by("ip", f'{count}{n} ] && exit 1;; esac; exec $real "$@"')
    done = site.do("start")
    site.host.show_again("ip")
    site.host.sh("rm -f /run/fake-count")
    assert done.returncode == (70 if n < 3 else 0), done.stderr
    site.stop()
    assert site.snapshot() == before


def test_who_needs_forwarding_since_keeps_it(site: Site) -> None:
    site.start()
    site.host.sh("sysctl -qw net.ipv4.ip_forward=1")
    site.stop()
    assert site.host.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/eth0/forwarding") == "1\n1\n"


def test_who_forwarded_before_still_does(site: Site) -> None:
    site.host.sh("sysctl -qw net.ipv4.ip_forward=1")
    before = site.snapshot()
    site.start()
    site.stop()
    assert site.snapshot() == before


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("chmod 666 {0}", "others than root can change it; chown it to root"),
        ("chown 65534 {0}", "others than root can change it"),
        ("mv {0} {0}.x; ln -s {0}.x {0}", "a symbolic link"),
        ("chmod 777 /run/charliecloud", "others than root can change folder charliecloud"),
        ("chown 65534 /run/charliecloud", "others than root can change folder charliecloud"),
        ("mv /run/charliecloud /run/x; ln -s x /run/charliecloud", "folder charliecloud: a symbolic link"),
        ("rm {0}", "No such file"),
        ("rm {0}; mkfifo {0}", "not a regular file"),
        ("printf 'TAP_OWNER=\\377' >{0}", "not text"),
        ("head -c 100000 /dev/zero >{0}", "longer than 65536 bytes"),
        ("sed -i s/eth0/eth7/ {0}", "FWD_IFACE eth7: no such interface"),
        ("sed -i s/65534/0/ {0}", "TAP_OWNER 0: root"),
        ("sed -i s/65534/root/ {0}", "TAP_OWNER root: root"),
        ("sed -i s/65534/nobodyatall/ {0}", "TAP_OWNER nobodyatall: no such user"),
        ("sed -i s/65534/4123456789/ {0}", "no such user"),
    ],
)
def test_settings_that_others_could_write_or_that_are_wrong_are_refused(idle: Site, spoil: str, told: str) -> None:
    site = idle
    site.host.sh("rm -rf /run/charliecloud /run/x; mkdir -m 755 /run/charliecloud")
    site.write_settings(SETTINGS)
    before = site.snapshot()
    site.host.sh(spoil.format(CONFIG))
    done = site.do("start")
    assert done.returncode == 64, done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    after = site.snapshot()
    assert {**after, "state": ""} == {**before, "state": ""}


@pytest.mark.parametrize(
    ("obstacle", "told"),
    [
        ("ip link add chtap2 type veth peer name x0", "the name chtap2"),
        ("ip link add chbr0 type bridge", "the name chbr0"),
        ("ip addr add 172.22.7.1/16 dev other0", "other0 of this host has 172.22.7.1/16"),
        ("ln -s /tmp /run/chslurm-site", "can't use /run/chslurm-site"),
        ("mkdir -m 755 /run/chslurm-site", "not root's alone"),
        ("mkdir -m 700 /run/chslurm-site; chown 65534 /run/chslurm-site", "not root's alone"),
    ],
)
def test_what_is_in_the_way_is_told_and_left_alone(site: Site, obstacle: str, told: str) -> None:
    site.host.sh(obstacle)
    before = site.snapshot()
    done = site.do("start")
    assert done.returncode == 70
    assert told in done.stderr
    assert site.snapshot() == before


def test_others_filters_that_hold_for_guests_are_told(site: Site) -> None:
    site.host.sh("nft 'table ip docker { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'")
    assert "note: chain ip docker FORWARD drops what it does not know" in site.start().stdout


def test_two_at_once_take_turns(site: Site) -> None:
    before = site.snapshot()
    argv = site.host.argv(*PYTHON, "-m", "chslurm.cli.main", "net", "workstation")
    verbs = ["start", "stop", "restart", "start", "restart"]
    running = [subprocess.Popen([*argv, verb, "--config", CONFIG], stdout=subprocess.DEVNULL) for verb in verbs]
    assert [process.wait(60) for process in running] == [0] * len(verbs)
    site.start()
    assert site.do("status").returncode == 0
    site.stop()
    assert site.snapshot() == before


def test_as_many_taps_as_a_network_has_addresses(site: Site) -> None:
    before = site.snapshot()
    site.write_settings(SETTINGS.replace("TAP_CT=3", "TAP_CT=253"))
    assert site.start().stdout == "up: chbr0 with 253 TAPs of nobody, NAT to eth0\n"
    assert site.do("status").returncode == 0
    site.stop()
    assert site.snapshot() == before


def test_only_root(site: Site) -> None:
    done = site.as_user(USER, *PYTHON, "-m", "chslurm.cli.main", "net", "workstation", "status")
    assert done.returncode == 70
    assert done.stderr == "chslurm: can't change or look at the host's network: not root; use sudo\n"


def test_explain_changes_nothing(site: Site) -> None:
    before = site.snapshot()
    for verb in ("start", "stop", "restart", "status"):
        done = site.do(verb, "--explain")
        assert done.returncode == 0, done.stderr
    assert "net/ipv4/conf/eth0/forwarding = 1" in site.do("start", "--explain").stdout
    assert site.snapshot() == before


def test_taps_are_their_owners(site: Site) -> None:
    site.start()
    assert site.open_tap(USER, "chtap1") == "open"
    assert site.open_tap(OTHER_USER, "chtap1").startswith("PermissionError: [Errno 1]")
    assert site.open_tap(USER, "chtap4").startswith("PermissionError: [Errno 1]")  # nobody makes a new one
    site.stop()
    assert site.open_tap(USER, "chtap1").startswith("PermissionError: [Errno 1]")


# -- the init script --------------------------------------------------------------------------------------------------

SCRIPT = Path(__file__).parent.parent.parent / "misc" / "network-w-linux"


def run_script(site: Site, *words: str, user: int = 0) -> subprocess.CompletedProcess[str]:
    return site.as_user(user, "env", "BASH_ENV=/nowhere", "PYTHONPATH=/nowhere", "sh", "/run/network-w-linux", *words)


@pytest.fixture
def script(site: Site) -> Site:
    """The script with a chslurm next to it, as in a checkout or a venv."""
    site.host.sh(f"mkdir /run/script; cp {SCRIPT} /run/script; ln -s script/network-w-linux /run/network-w-linux")
    lines = f'#!/bin/sh\nenv >/run/fake-environment\nexec {" ".join(PYTHON)} -m chslurm.cli.main "$@"'
    site.host.sh(f"cat >/run/script/chslurm <<'END'\n{lines}\nEND\nchmod 755 /run/script/chslurm")
    return site


def test_init_script_has_the_exit_statuses_of_lsb(script: Site) -> None:
    config = ("--config", CONFIG)
    before = script.snapshot()
    steps = [("status", 3), ("start", 0), ("start", 0), ("status", 0), ("restart", 0), ("force-reload", 0)]
    for verb, status in [*steps, ("stop", 0), ("stop", 0), ("status", 3)]:
        done = run_script(script, verb, *config)
        assert done.returncode == status, (verb, done.stderr)
    assert script.snapshot() == before
    assert run_script(script).returncode == 2
    assert run_script(script, "begin").returncode == 2
    assert run_script(script, "reload").returncode == 3
    assert run_script(script, "start", "--config", "/run/none").returncode == 6
    assert [run_script(script, verb, *config, user=USER).returncode for verb in ("start", "status")] == [4, 4]
    script.start()
    script.host.sh("ip link del chtap1")
    assert run_script(script, "status", *config).returncode == 1


def test_init_script_keeps_nothing_of_the_environment(script: Site) -> None:
    assert run_script(script, "start", "--config", CONFIG).returncode == 0
    kept = {line.partition("=")[0] for line in script.host.sh("cat /run/fake-environment").splitlines()}
    allowed = {"PATH", "LC_ALL", "HOME", "PWD", "OLDPWD", "_", "SHLVL", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE"}
    assert kept <= allowed
    script.stop()


def test_init_script_finds_the_program_that_root_named(script: Site) -> None:
    """By a line in the settings that only root can have written."""
    host = script.host
    host.sh("mv /run/script/chslurm /run/program")
    assert run_script(script, "status").returncode == 4
    assert run_script(script, "start").returncode == 5
    host.sh(f"sed -i s,^config=.*,config={CONFIG}, /run/script/network-w-linux")
    host.sh(f"echo 'CHSLURM=/run/program  # here' >>{CONFIG}")
    assert run_script(script, "status", "--config", CONFIG).returncode == 3
    host.sh(f"chmod 666 {CONFIG}")
    assert run_script(script, "start", "--config", CONFIG).returncode == 5
