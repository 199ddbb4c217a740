# SPDX-License-Identifier: Apache-2.0
"""What tests of all rings share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from chslurm.plan import (
    PLAN_FORMAT,
    Accelerator,
    Deadlines,
    Disks,
    Guest,
    Host,
    Image,
    Job,
    Layer,
    Mode,
    NetworkKind,
    Plan,
    Share,
    TunnelKind,
    User,
)

# A machine that runs guests beside the tests is slow now and then; pytest has its own, longer limit. What has failed
# is kept, but not in a checkout that the tester can only read.
_kept = Path(os.environ.get("HYPOTHESIS_STORAGE_DIRECTORY", ".hypothesis"))
_can_keep = os.access(_kept if _kept.exists() else _kept.parent, os.W_OK)
settings.register_profile("chslurm", deadline=None)
settings.register_profile("chslurm-read-only", settings.get_profile("chslurm"), database=None)
settings.load_profile("chslurm" if _can_keep else "chslurm-read-only")


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., Plan]:
    """Return a function that makes a plan of so many hosts with so many guests each."""

    def make(
        hosts: int = 3, guests_per_host: int = 1, *, interactive: bool = False, time_limit_s: float | None = None
    ) -> Plan:
        return Plan(
            format=PLAN_FORMAT,
            version="0",
            cluster_id="0123456789abcdef",
            created="2026-01-02T03:04:05Z",
            mode=Mode.CLUSTER,
            job_dir="/home/user/charlie",
            image=Image((Layer("/images/a,b.qcow2", "qcow2", 1, 2, 3, 4), Layer("/images/base", "raw", 5, 6, 7, 8))),
            hosts=tuple(
                Host(number, f"cn{number:03}", 2, 4000, (number - 1) * guests_per_host, guests_per_host)
                for number in range(1, hosts + 1)
            ),
            guests=tuple(
                Guest(number * guests_per_host + slot, number + 1, slot + 1, 2, 1024)
                for number in range(hosts)
                for slot in range(guests_per_host)
            ),
            shares=(Share("data1", "/home/user/data, with comma"),),
            job=Job(None if interactive else "/home/user/job.sh", (), interactive, "job.sh"),
            user=User("user", 1000, 1000, ()),
            disks=Disks(2048, 4096, None, None, "local"),
            accelerator=Accelerator.AUTO,
            tunnel=TunnelKind.AUTO,
            network=NetworkKind.ROOTLESS,
            network_reason="",
            vni=7,
            outside=False,
            environment={},
            slurm_job_id="42",
            end_time_unix_s=None,
            time_limit_s=time_limit_s,
            deadlines=Deadlines(
                node_up_s=60,
                tunnel_s=30,
                silent_s=100,
                ready_s=300,
                finish_s=60,
                power_down_s=20,
                quit_s=10,
                node_down_s=15,
                beat_s=5,
                lost_s=30,
                cancel_s=28,
            ),
            warnings=(),
            sync=True,
            cleanup=False,
            commit_guest=None,
            vga=False,
        )

    return make
