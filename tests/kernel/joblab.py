# SPDX-License-Identifier: Apache-2.0
"""Nodes of a SLURM cluster made of namespaces, where root's prolog and epilog run as SLURM runs them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lab import HERE, OTHER_USER, PACKAGE, TIED, USER, Guest, Lab, Namespace

from chslurm.addresses import make_layout
from chslurm.jobnet import JobNames

MISC = HERE.parent.parent / "misc"
Done = subprocess.CompletedProcess[str]

CHSLURM = "from chslurm.cli.main import main; main()"
OPEN = f"""
import sys; sys.path.insert(0, {str(PACKAGE)!r})
from chslurm.host.sitetaps import open_site_tap
open_site_tap(sys.argv[1]); print("open")
"""
PATIENT = """
import runpy, sys
from chslurm.host.jobfabric import Budget
Budget.__init__.__defaults__ = (float(sys.argv.pop(1)),)
runpy.run_module("chslurm.cli.prolog", run_name="__main__")
"""
PUMP = f"""
import os, select, sys; sys.path.insert(0, {str(PACKAGE)!r})
from chslurm.host.sitetaps import open_site_tap
taps = [open_site_tap(name) for name in sys.argv[1].split(",")]
ends = dict(zip(taps, map(int, sys.argv[2:]))); ends |= {{end: tap for tap, end in ends.items()}}
print("open", flush=True)
while True:
    for source in select.select(list(ends), [], [])[0]:
        try:
            os.write(ends[source], os.read(source, 70000))
        except OSError:
            pass
"""


class SlurmNode:
    """One node, with settings, names of all nodes, and the scripts that slurm.conf names."""

    def __init__(self, lab: Lab, number: int, settings: str, node_ct: int, budget_s: float = 0.0) -> None:
        self.lab, self.number, self.budget_s = lab, number, budget_s
        self.name = f"cn{number}"
        self.host: Namespace = lab.add_host(number)
        names = "\n".join(f"10.99.0.{other} cn{other}" for other in range(1, node_ct + 1))
        self.host.sh(
            "mount -t tmpfs -o mode=755 none /run; mkdir /run/netns /run/up /run/work /run/bin"
            "; mount -t overlay -o lowerdir=/etc,upperdir=/run/up,workdir=/run/work none /etc"
            "; rm -f /etc/hosts /etc/nsswitch.conf"  # a guest has links there
            f"; printf '127.0.0.1 localhost\\n%s\\n' '{names}' >/etc/hosts; mkdir -p -m 755 /etc/charliecloud"
            f"; printf 'hosts: files\\n' >/etc/nsswitch.conf"
        )
        self.write_settings(settings)
        self._install()

    def _install(self) -> None:
        """As a site has them: scripts beside the programs. The Python there takes the code that is tested."""
        python = (
            f'#!/bin/sh\nshift\nPYTHONPATH={PACKAGE} PYTHONPYCACHEPREFIX=/run/compiled exec {sys.executable} "$@"\n'
        )
        if self.budget_s:  # in a guest under emulation all takes long
            python = (
                f"#!/bin/sh\nshift 3\nPYTHONPATH={PACKAGE} exec {sys.executable} -c '{PATIENT}' {self.budget_s}"
                ' "$@"\n'
            )
        self.host.sh(
            f"cd /run/bin; cat >python3 <<'END'\n{python}END\ncp {MISC}/slurm-prolog ."
            f"; cp {MISC}/slurm-prolog slurm-epilog; cp {MISC}/slurm-prolog-check ."
            f"; printf '#!/bin/sh\\nexec /run/bin/python3 -I -c \"%s\" \"$@\"\\n' '{CHSLURM}' >chslurm; chmod 755 *"
        )
        if self.budget_s:
            self.host.sh("sed -i 's/kill-after=1 10 /kill-after=1 60 /' /run/bin/slurm-prolog /run/bin/slurm-epilog")

    def write_settings(self, text: str) -> None:
        self.host.sh(f"cat >/etc/charliecloud/network.conf <<'END'\n{text}\nEND")

    def environment(self, job_id: int, nodes: str, uid: int, **more: str) -> dict[str, str]:
        return {
            "SLURMD_NODENAME": self.name,
            "SLURM_JOB_ID": str(job_id),
            "SLURM_JOB_UID": str(uid),
            "SLURM_JOB_PARTITION": "site",
            "SLURM_NODELIST": nodes,
            **more,
        }

    def start(self, verb: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        variables = [f"{name}={value}" for name, value in environment.items()]
        argv = self.host.argv("/usr/bin/env", "-i", *variables, f"/run/bin/slurm-{verb}")
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True)

    def prolog(self, job_id: int, nodes: str, uid: int = USER, **more: str) -> Done:
        return self._finish(self.start("prolog", self.environment(job_id, nodes, uid, **more)))

    def epilog(self, job_id: int, nodes: str = "", uid: int = USER) -> Done:
        return self._finish(self.start("epilog", self.environment(job_id, nodes or self.name, uid)))

    def _finish(self, process: subprocess.Popen[str]) -> Done:
        out, err = process.communicate(timeout=30)
        return Done(process.args, process.returncode, out, err)

    def snapshot(self) -> dict[str, str]:
        """All of the node that the network of a job could change."""
        return {
            "links": self.host.sh("ip -o link | sed 's/ qlen .*//' | sort"),
            "addresses": self.host.sh("ip -o -4 address"),
            "routes": self.host.sh("ip -4 route show table all | sort"),
            "rules": self.host.sh("nft list ruleset"),
            "names": self.host.sh("ls /run/netns"),
            "mounts": self.host.sh("grep /run/netns/chslurm- /proc/self/mounts || true"),
            "sockets": self.host.sh("ss -Hulnp || true"),
            "state": self.host.sh("ls -A /run/chslurm-jobs 2>/dev/null || true"),
            "settings": self.host.sh("grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf 2>/dev/null | sort"),
        }

    def as_user(self, user: int, *argv: str) -> Done:
        who = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups")
        return self.host.run(*who, *argv)

    def open_tap(self, user: int, name: str) -> str:
        done = self.as_user(user, sys.executable, "-c", OPEN, name)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    def in_job(self, job_id: int, script: str) -> str:
        """What a shell script says in the job's own namespace."""
        return self.host.sh(f"ip netns exec {JobNames(job_id).netns} sh -ec '{script}'")

    def boot(self, job_id: int, host_ct: int, host: int, slots: Sequence[int], user: int = USER) -> list[Guest]:
        """Guests at the TAPs of a job; a process of its user passes their frames on."""
        guests: list[Guest] = [self.lab.keep(Guest(make_layout(host_ct).guest(host, slot))) for slot in slots]
        taps = [guest.tap for guest in guests]
        names = ",".join(JobNames(job_id).tap(slot) for slot in slots)
        who = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", *TIED)
        argv = self.host.argv(*who, sys.executable, "-c", PUMP, names, *map(str, taps))
        pump = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, pass_fds=taps)
        self.lab.keep(_Ended(pump))
        assert pump.stdout
        assert pump.stdout.readline() == "open\n"
        return guests


class _Ended:
    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self.process = process

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def add_nodes(lab: Lab, count: int, settings: str = "TAPS=3", budget_s: float = 0.0) -> list[SlurmNode]:
    return [SlurmNode(lab, number, settings, count, budget_s) for number in range(1, count + 1)]


__all__ = ["OTHER_USER", "USER", "SlurmNode", "add_nodes"]
