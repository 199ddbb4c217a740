# SPDX-License-Identifier: Apache-2.0
"""A network that root makes on a host: made, repeated, broken off, removed; nothing else of the host is touched."""

from __future__ import annotations

import json
import random
import subprocess
import time
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


@pytest.mark.parametrize(
    "damage",
    [
        "ip link del chtap2",
        "ip link set chbr0 down",
        "ip link set chtap1 nomaster",
        "ip link del chbr0",
        "ip addr flush dev chbr0",
        "nft delete table netdev chslurm_w",
        "nft flush chain inet chslurm_w output",
        "nft delete element bridge chslurm_w ports { chtap3 }",
        "sysctl -qw net.ipv4.conf.eth0.forwarding=0",
        "rm /run/chslurm-site/workstation.json",
        "echo nonsense >/run/chslurm-site/workstation.json",
    ],
)
def test_damage_is_seen_and_mended(site: Site, damage: str) -> None:
    before = site.snapshot()
    site.start()
    site.host.sh(damage)
    status = site.do("status")
    assert status.returncode == 1, status.stdout
    assert "start repairs it" in status.stdout
    site.start()
    assert site.do("status").returncode == 0
    site.stop()
    if "nonsense" not in damage and "rm " not in damage:  # else nobody knows that eth0 did not forward
        assert site.snapshot() == before


def list_rules(site: Site, family: str) -> list[tuple[str, str]]:
    """Chain and handle of each of our rules."""
    chain, rules = "", list[tuple[str, str]]()
    for line in site.host.sh(f"nft -a list table {family} chslurm_w").splitlines():
        words = line.split()
        if words[:1] == ["chain"]:
            chain = words[1]
        elif chain and "# handle" in line:
            rules.append((chain, words[-1]))
    return rules


@pytest.mark.parametrize("family", ["inet", "netdev", "bridge"])
def test_each_single_rule_that_is_missing_is_noticed(site: Site, family: str) -> None:
    site.start()
    whole = site.host.sh("nft list ruleset")
    for index in range(len(list_rules(site, family))):
        chain, handle = list_rules(site, family)[index]  # numbers are new after each repair
        site.host.sh(f"nft delete rule {family} chslurm_w {chain} handle {handle}")
        assert site.do("status").returncode == 1, (family, chain, handle)
        site.start()
        assert site.host.sh("nft list ruleset") == whole


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


@pytest.mark.parametrize("script", ['case "$*" in *-f*) exit 1 ;; *) exec $real "$@" ;; esac', "exec sleep 60"])
def test_without_filters_no_link_stays(site: Site, script: str) -> None:
    before = site.snapshot()
    site.hide_by("nft", script)
    began = time.monotonic()
    done = site.do("start")
    assert time.monotonic() - began < 30
    assert done.returncode == 70
    assert "can't" in done.stderr
    assert site.taps() == ""
    site.show_again("nft")
    site.stop()
    assert site.snapshot() == before


@pytest.mark.parametrize("n", range(1, 4))
def test_an_ip_that_fails_leaves_nothing(site: Site, n: int) -> None:
    """The n-th batch fails; the first two make links, the others remove them."""
    before = site.snapshot()
    count = 'case "$*" in *-batch*) echo x >>/run/fake-count; [ $(wc -l </run/fake-count) = '
    site.hide_by("ip", f'{count}{n} ] && exit 1;; esac; exec $real "$@"')
    done = site.do("start")
    site.show_again("ip")
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
def test_settings_that_others_could_write_or_that_are_wrong_are_refused(site: Site, spoil: str, told: str) -> None:
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
