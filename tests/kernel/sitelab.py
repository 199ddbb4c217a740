# SPDX-License-Identifier: Apache-2.0
"""Root's part of a test, on a host that is a namespace: its settings, its verbs, and what it leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from lab import HERE, OTHER_USER, PACKAGE, TIED, USER, Guest, Lab, Namespace

from chslurm.addresses import make_layout

CONFIG = "/run/charliecloud/config.sh"
SETTINGS = f"TAP_OWNER={USER}\nFWD_IFACE=eth0\nTAP_CT=3\n"
PYTHON = ("env", f"PYTHONPATH={PACKAGE}", "PYTHONDONTWRITEBYTECODE=1", sys.executable)
WORKSTATION = (*PYTHON, "-m", "chslurm.cli.main", "net", "workstation")
Done = subprocess.CompletedProcess[str]


class Site:
    """One host, where root has settings and other people's links and rules."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.host: Namespace = lab.add_host(1)
        self.host.sh("mount -t tmpfs -o mode=755 none /run; mkdir -m 755 /run/charliecloud")
        self.host.sh("ip link add other0 type bridge; ip link set other0 up")
        self.host.sh("nft 'table inet other { chain forward { type filter hook forward priority 0; }; }'")
        self.host.sh("nft 'table bridge other { set s { type ether_addr; }; }'")
        self.write_settings(SETTINGS)

    def write_settings(self, text: str) -> None:
        self.host.sh(f"cat >{CONFIG} <<'END'\n{text}\nEND")

    def do(self, verb: str, *options: str) -> Done:
        return self.host.run(*WORKSTATION, verb, "--config", CONFIG, *options, timeout_s=60)

    def start(self) -> Done:
        done = self.do("start")
        assert done.returncode == 0, done.stderr
        return done

    def stop(self) -> Done:
        done = self.do("stop")
        assert done.returncode == 0, done.stderr
        return done

    def snapshot(self) -> dict[str, str]:
        """All of the host that a network could change."""
        return {
            "links": self.host.sh("ip -o link | sed 's/ qlen .*//' | sort"),
            "addresses": self.host.sh("ip -o -4 address"),
            "routes": self.host.sh("ip -4 route show table all | sort"),
            "rules": self.host.sh("nft list ruleset"),
            "settings": self.host.sh("grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf 2>/dev/null | sort"),
            "forward": self.host.sh("cat /proc/sys/net/ipv4/ip_forward"),
            "state": self.host.sh("ls -A /run | grep -v '^fake-\\|^real-\\|^mount$' | sort"),
        }

    def taps(self) -> str:
        return self.host.sh("ip -br link | grep -E 'chtap|chbr' || true")

    def as_user(self, user: int, *argv: str, timeout_s: float = 20) -> Done:
        who = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups")
        return self.host.run(*who, *argv, timeout_s=timeout_s)

    def asks(self, user: int, address: str, port: int) -> str:
        """What a user of this host gets from a server there."""
        ask = (sys.executable, str(self.lab.tools / "sockets.py"), "ask", "tcp", address, str(port))
        for _ in range(3):
            if answer := self.as_user(user, *ask).stdout.strip():
                return answer
        return ""

    def open_tap(self, user: int, name: str) -> str:
        code = f"from chslurm.host.sitetaps import open_site_tap as o; o('{name}'); print('open')"
        done = self.as_user(user, *PYTHON, "-c", code)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


class SiteNode:
    """A cluster's node process with guests at the TAPs `slots`."""

    def __init__(self, site: Site, slots: Sequence[int], user: int = USER) -> None:
        lab = site.lab
        shutil.copy(HERE / "sitedriver.py", lab.tools)
        self.guests: list[Guest] = [lab.keep(Guest(make_layout(1).guest(1, slot))) for slot in slots]
        taps = [guest.tap for guest in self.guests]
        who = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups")
        driver = (*PYTHON, str(lab.tools / "sitedriver.py"), ",".join(map(str, slots)), *map(str, taps))
        enter = ("nsenter", "--target", str(site.host.pid), "--net", "--mount")
        pipe = subprocess.PIPE
        argv = [*enter, *who, *TIED, *driver]
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, pass_fds=taps)
        lab.keep(self)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


__all__ = ["CONFIG", "OTHER_USER", "PYTHON", "SETTINGS", "USER", "Site", "SiteNode"]
