# SPDX-License-Identifier: Apache-2.0
"""What guests read: meta/ and the files they get over the control port."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.environment import find_job_variables, find_secret_proxies, render_exports
from chslurm.guest_files import ClusterKeys, GuestFile, HostIdentity, make_guest_files
from chslurm.messages import GuestOrder, encode
from chslurm.meta import make_meta_files
from chslurm.plan import Group, Job, Plan, User

KEYS = ClusterKeys("authority\n", "private\n", "public\n", "known\n")
IDENTITY = HostIdentity("host private\n", "host public\n", "host certificate\n")


@pytest.fixture
def plan(plan_of: Callable[..., Plan]) -> Plan:
    user = User("user", 1001, 1001, (Group("twitter", 1000), Group("user", 1001)))
    return dataclasses.replace(
        plan_of(2, 2),
        user=user,
        job=Job("/job.sh", ("-x", "it's", "a\nb"), interactive=False, name="charlie"),
        environment={"SLURM_JOB_ID": "42", "http_proxy": "http://proxy:3128"},
    )


def files_of(plan: Plan, **environment: str) -> dict[str, GuestFile]:
    files = make_guest_files(plan, plan.guests[3], KEYS, IDENTITY, mtu=1450, environment=environment)
    return {file.name: file for file in files}


def test_golden(plan: Plan, golden: Callable[[str, str], None]) -> None:
    golden("meta.txt", "".join(f"== {name}\n{text}" for name, text in make_meta_files(plan).items()))
    texts = (f"== {file.name} {file.mode:04o}\n{file.text}" for file in files_of(plan).values())
    golden("guest-files.txt", "".join(texts))


def test_hosts_as_the_tutorial_shows_them(plan_of: Callable[..., Plan]) -> None:
    files = make_meta_files(plan_of(1, 2, interactive=True))
    assert files["hosts"] == (
        "127.0.0.1 localhost\n172.22.1.1 chgu0\n172.22.1.254 chgu0host\n172.22.1.2 chgu1\n172.22.1.254 chgu1host\n"
    )
    assert files["interactive"] == ""


def test_the_guest_that_is_committed_is_named(plan_of: Callable[..., Plan]) -> None:
    assert "commit" not in make_meta_files(plan_of())
    assert make_meta_files(dataclasses.replace(plan_of(), commit_guest=2))["commit"] == "2\n"


def test_userdata_is_json_for_any_name(plan: Plan) -> None:
    odd = dataclasses.replace(plan, user=User('na"me', 5, 6, (Group("dömäne\\g", 1000),)))
    data = json.loads(make_meta_files(odd)["host-userdata"])
    assert data == {"username": 'na"me', "uid": 5, "gid": 6, "groups": {"dömäne\\g": 1000}}


def test_meta_holds_no_secret(plan: Plan) -> None:
    environment = {"https_proxy": "http://me:word@proxy:1", "HTTP_PROXY": "http://proxy:1", "all_proxy": "me:word@x"}
    seen = dataclasses.replace(plan, environment=find_job_variables(environment))
    assert "word" not in str(make_meta_files(seen))
    assert "HTTP_PROXY" in make_meta_files(seen)["proxy.sh"]
    assert find_secret_proxies(environment).keys() == {"https_proxy", "all_proxy"}
    assert "me:word@proxy" in files_of(seen, **environment)["environment.sh"].text


def test_jobs_get_the_identity_of_the_slurm_job_and_no_node_list() -> None:
    environment = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOBID": "1", "SLURM_JOB_NAME": "\udcff"}
    assert find_job_variables(environment) == {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "?"}
    names = ("JOB_ID", "TASK_ID", "TASK_COUNT", "TASK_MIN", "TASK_MAX", "TASK_STEP")
    array = {f"SLURM_ARRAY_{name}": "7" for name in names}
    assert find_job_variables(array) == array


def test_more_groups_than_an_order_holds_keep_their_numbers(plan: Plan) -> None:
    groups = tuple(Group(f"CORP\\group number {gid}", gid) for gid in range(1000, 4000))
    file = files_of(dataclasses.replace(plan, user=User("user", 5, 6, groups)))["groups"]
    order = encode(GuestOrder(op="put", name=file.name, mode="0644", text=file.text))
    assert len(order) < 64 << 10
    lines = file.text.splitlines()
    assert [int(line.partition(":")[0]) for line in lines] == list(range(1000, 4000))
    assert (lines[0], lines[-1]) == ("1000:CORP\\group number 1000", "3999:")


def test_arguments_reach_the_script_as_they_were(plan: Plan) -> None:
    assert shlex.split(files_of(plan)["jobargs"].text) == ["-x", "it's", "a\nb"]


def test_private_keys_are_private(plan: Plan) -> None:
    modes = {name: file.mode for name, file in files_of(plan).items()}
    assert modes["id_ed25519"] == modes["ssh_host_ed25519_key"] == 0o600
    assert KEYS.authority not in [file.text for file in files_of(plan).values()]


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_shell_reads_back_any_value(value: str) -> None:
    shell: Any = subprocess.run(
        ["sh", "-c", 'eval "$1"; printf %s "$VALUE"', "sh", render_exports({"VALUE": value})],
        capture_output=True,
        check=True,
        timeout=10,
    )
    assert shell.stdout.decode() == value
