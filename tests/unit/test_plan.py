# SPDX-License-Identifier: Apache-2.0
"""Request + allocation + facts -> plan: sizes, places, deadlines, words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.allocation import Allocation, Node
from chslurm.errors import ChslurmError, UsageError
from chslurm.plan import Group, Image, Layer, Mode, Plan, User, plan_digest, plan_from_json, plan_to_json
from chslurm.planner import Facts, find_file_system, is_network_file_system, make_plan, render_plan
from chslurm.request import Request
from chslurm.sizes import GUEST_RESERVE_MIB, NODE_RESERVE_MIB, make_guest_sizes

RequestMaker = Callable[..., Request]
Golden = Callable[[str, str], None]

FACTS = Facts(
    image=Image((Layer("/images/image.qcow2", "qcow2", 123, 456, 457, 789),)),
    user=User("user", 1001, 1001, (Group("twitter", 1000), Group("user", 1001))),
    environment={
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NAME": "my\njob",
        "HOME": "/home/user",
        "http_proxy": "http://p:3128",
    },
    file_system="ext4",
    node_dir="/tmp",
    now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    version="0.1.0",
    cluster_id="0123456789abcdef",
    vni=4711,
)
CLUSTER = Allocation(
    Mode.CLUSTER,
    (Node("cn001", 4, 8000), Node("cn002", 4, 8000), Node("cn003", 2, 4000)),
    slurm_job_id="42",
    kill_wait_s=30.0,
)
WORKSTATION = Allocation(Mode.WORKSTATION, (Node("desk", 4, 16000, 12000),))


def sizes_of(request: Request, allocation: Allocation) -> list[tuple[int, int, int]]:
    return [(size.guest_ct, size.cores, size.ram_mib) for size in make_guest_sizes(request, allocation)[0]]


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_one_guest_for_each_node_of_its_own_size(request_of: RequestMaker) -> None:
    assert sizes_of(request_of(), CLUSTER) == [(1, 4, 7430), (1, 4, 7430), (1, 2, 3460)]


def test_guests_are_spread_in_even_blocks(request_of: RequestMaker) -> None:
    plan = make_plan(request_of(guests="7"), CLUSTER, FACTS)
    assert [(host.first_guest, host.guest_ct) for host in plan.hosts] == [(0, 3), (3, 2), (5, 2)]
    assert [(guest.id, guest.host, guest.slot) for guest in plan.guests][2:5] == [(2, 1, 3), (3, 2, 1), (4, 2, 2)]
    assert [guest.cores for guest in plan.guests] == [1, 1, 1, 2, 2, 1, 1]
    assert all(plan.guests_of(plan.host(n)) for n in (1, 2, 3))


def test_nodes_without_guests_are_left_out_and_told(request_of: RequestMaker) -> None:
    sizes, warnings = make_guest_sizes(request_of(guests="1"), CLUSTER)
    assert [size.node.name for size in sizes] == ["cn001"]
    assert "2 of 3 nodes get no guest" in warnings


def test_options_of_the_workstation_do_not_count_in_an_allocation(request_of: RequestMaker) -> None:
    sizes, warnings = make_guest_sizes(request_of(cores="1", ram="1G"), CLUSTER)
    assert sizes[0].cores == 4
    assert any("--my-size" in warning for warning in warnings)


def test_my_size_takes_less(request_of: RequestMaker) -> None:
    assert sizes_of(request_of(cores="1", ram="1G", my_size=True), CLUSTER) == [(1, 1, 1024)] * 3


@pytest.mark.parametrize("options", [{"cores": "3"}, {"ram": "4G"}])
def test_my_size_never_takes_more_than_the_smallest_node_has(request_of: RequestMaker, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"3 cores.*cn003 has 2|4 GiB.*cn003 has 2 and 3\.379 GiB"):
        make_guest_sizes(request_of(my_size=True, **options), CLUSTER)


def test_too_many_guests_are_refused_with_both_numbers(request_of: RequestMaker) -> None:
    with pytest.raises(UsageError, match=r"cn003: 25 guests on 3\.906 GiB would get 0 MiB.*256 MiB"):
        make_guest_sizes(
            request_of(guests="50"), dataclasses.replace(CLUSTER, nodes=CLUSTER.nodes[2:] + CLUSTER.nodes[2:])
        )
    with pytest.raises(
        UsageError, match="can't place 254 guests on one host: in a cluster of 3 hosts each has room for 253"
    ):
        make_guest_sizes(request_of(guests="760"), CLUSTER)


def test_the_network_has_room_for_the_guests_of_many_hosts(request_of: RequestMaker) -> None:
    """What counts is how many nodes get guests, not how many there are."""
    node = Node("cn", 64, 262_144)
    large = dataclasses.replace(CLUSTER, nodes=(node,) * 10_000)
    sizes, _ = make_guest_sizes(request_of(guests="20000"), large)
    assert [size.guest_ct for size in sizes] == [2] * 10_000
    with pytest.raises(UsageError, match="62 guests on one host: in a cluster of 10000 hosts each has room for 61"):
        make_guest_sizes(request_of(guests="610001"), large)
    sizes, warnings = make_guest_sizes(request_of(guests="4064"), large)
    assert len(sizes) == 4064
    assert "5936 of 10000 nodes get no guest" in warnings


def test_a_workstation_has_two_small_guests(request_of: RequestMaker) -> None:
    assert sizes_of(request_of(), WORKSTATION) == [(2, 2, 2048)]
    assert make_guest_sizes(request_of(), WORKSTATION)[1] == ()


def test_a_workstation_gives_no_ram_it_has_not_and_warns_of_the_rest(request_of: RequestMaker) -> None:
    with pytest.raises(
        UsageError, match=r"2 guests with 8 GiB RAM each: this machine's 15\.62 GiB allow 7\.41 GiB each"
    ):
        make_guest_sizes(request_of(ram="8G"), WORKSTATION)
    warnings = make_guest_sizes(request_of(ram="7G", cores="3"), WORKSTATION)[1]
    assert any("6 virtual cores on the 4 of this machine" in warning for warning in warnings)
    assert any("11.72 GiB are free" in warning for warning in warnings)


@given(memory_mib=st.integers(1, 1 << 24), guests=st.integers(1, 253), cores=st.integers(1, 512))
def test_guests_never_get_more_than_the_node_has(
    request_of: RequestMaker, memory_mib: int, guests: int, cores: int
) -> None:
    node = Allocation(Mode.CLUSTER, (Node("n", cores, memory_mib),))
    try:
        ((count, guest_cores, ram_mib),) = sizes_of(request_of(guests=str(guests)), node)
    except UsageError:
        assert memory_mib < guests * (256 * 129 / 127 + GUEST_RESERVE_MIB + 2) + NODE_RESERVE_MIB + guests
        return
    assert count == guests
    assert count * (ram_mib + GUEST_RESERVE_MIB) + NODE_RESERVE_MIB <= memory_mib
    assert ram_mib >= 256
    assert guest_cores == min(max(cores // guests, 1), 255)


def test_a_guest_has_no_more_cores_than_a_virtual_machine_can(request_of: RequestMaker) -> None:
    node = Allocation(Mode.CLUSTER, (Node("big", 512, 1 << 20),))
    told = "guests get 255 cores, the most of a virtual machine; more guests (-n) use more"
    assert sizes_of(request_of(), node)[0][1] == 255
    assert told in make_guest_sizes(request_of(), node)[1]
    assert told not in make_guest_sizes(request_of(guests="3"), node)[1]
    assert sizes_of(request_of(cores="300"), WORKSTATION)[0][1] == 255
    assert told in make_guest_sizes(request_of(cores="300"), WORKSTATION)[1]


# -- places and deadlines ---------------------------------------------------------------------------------------------

MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw shared:2 - nfs4 server:/home rw
31 30 0:41 / /home/a\\040b rw - ext4 /dev/sdb rw
32 22 0:42 / /scratch rw - lustre a@tcp:/x rw
33 22 0:43 / /tmp rw - tmpfs none rw
34 22 0:44 / /tmp rw - xfs /dev/sdc rw
35 22 0:45 / /mnt rw - fuse.sshfs x: rw
garbage
"""


@pytest.mark.parametrize(
    ("path", "kind", "far"),
    [
        ("/srv/x", "ext4", False),
        ("/home/user/x", "nfs4", True),
        ("/homeless", "ext4", False),
        ("/home/a b/x", "ext4", False),
        ("/scratch", "lustre", True),
        ("/tmp/x", "xfs", False),
        ("/mnt/x", "fuse.sshfs", True),
    ],
)
def test_file_system_of_a_path(path: str, kind: str, far: bool) -> None:
    assert find_file_system(MOUNTINFO, PurePath(path)) == kind
    assert is_network_file_system(kind) is far


def test_disks_are_never_on_a_network_file_system(request_of: RequestMaker) -> None:
    near = make_plan(request_of(), CLUSTER, FACTS).disks
    assert (near.overlay_dir, near.tmp_dir) == (None, None)
    far = make_plan(request_of(), CLUSTER, dataclasses.replace(FACTS, file_system="nfs4")).disks
    assert (far.overlay_dir, far.tmp_dir) == ("/tmp", "/tmp")
    assert "nfs4" in far.reason
    asked = make_plan(request_of(tmp_dir="/local"), CLUSTER, FACTS).disks
    assert (asked.overlay_dir, asked.tmp_dir) == (None, "/local")


def test_small_temporary_disks_have_less_swap(request_of: RequestMaker) -> None:
    disks = make_plan(request_of(tmp_size="1G"), CLUSTER, FACTS).disks
    assert (disks.swap_mib, disks.tmp_mib) == (512, 1024)


def test_deadlines(request_of: RequestMaker) -> None:
    def deadlines(allocation: Allocation = CLUSTER, **options: Any) -> Any:
        return make_plan(request_of(**options), allocation, FACTS).deadlines

    assert deadlines().cancel_s == 28.0
    assert deadlines(dataclasses.replace(CLUSTER, kill_wait_s=1.0)).cancel_s == 2.0
    assert deadlines(accel="kvm").ready_s < deadlines().ready_s < deadlines(guests="12").ready_s
    assert deadlines(boot_timeout="7").ready_s == deadlines(boot_timeout="7").silent_s == 7.0
    assert deadlines().beat_s * 3 < deadlines().lost_s


# -- the plan as a file and in words ----------------------------------------------------------------------------------


@pytest.fixture
def plans(request_of: RequestMaker) -> dict[str, Plan]:
    cluster = request_of(
        job="job.sh", arguments=("a", "b c"), dir=("/data/x,y", "/data/li\nne"), time_limit="1:30:00", jobdir="charlie"
    )
    return {
        "cluster": make_plan(cluster, CLUSTER, FACTS),
        "workstation": make_plan(request_of(jobname="mine"), WORKSTATION, dataclasses.replace(FACTS, environment={})),
    }


@pytest.mark.parametrize("name", ["cluster", "workstation"])
def test_golden(plans: dict[str, Plan], golden: Golden, name: str) -> None:
    golden(f"plan-{name}.json", plan_to_json(plans[name]).decode())
    golden(f"plan-{name}.txt", render_plan(plans[name]))


def test_without_a_time_limit_that_of_the_job_counts(request_of: RequestMaker) -> None:
    """Its end is told once."""
    text = render_plan(make_plan(request_of(), dataclasses.replace(CLUSTER, end_time_unix_s=1e9), FACTS))
    assert "\ntime limit:    that of the SLURM job\n" in text
    assert text.startswith("mode:          cluster, SLURM job 42, until 2001-09-")
    assert text.count("until ") == 1


def test_a_plan_survives_being_a_file(plans: dict[str, Plan]) -> None:
    text = plan_to_json(plans["cluster"])
    assert plan_from_json(text) == plans["cluster"]
    assert plan_digest(text) != plan_digest(plan_to_json(plans["workstation"]))


def test_no_plan_of_another_format_is_read(plans: dict[str, Plan]) -> None:
    text = plan_to_json(dataclasses.replace(plans["cluster"], format=0))
    with pytest.raises(ChslurmError, match="format 0"):
        plan_from_json(text)
    with pytest.raises(ChslurmError, match="can't read the plan"):
        plan_from_json(b"{}")


@pytest.mark.parametrize(
    "damage", [{"created": "yesterday"}, {"created": "0001-01-01T00:00:00"}, {"guests": []}, {"hosts": []}]
)
def test_no_damaged_plan_is_read(plans: dict[str, Plan], damage: dict[str, object]) -> None:
    damaged = json.dumps({**json.loads(plan_to_json(plans["cluster"])), **damage}).encode()
    with pytest.raises(ChslurmError, match="can't use the plan: no hosts, no guests, or no time"):
        plan_from_json(damaged)


def test_hosts_alone_need_no_tunnel(plans: dict[str, Plan]) -> None:
    assert plans["cluster"].vni == 4711
    assert plans["workstation"].vni == 0


def test_job_directories_are_named_by_name_and_time(plans: dict[str, Plan]) -> None:
    assert plans["workstation"].job_dir == "/home/user/mine.20260102_030405"
    assert plans["cluster"].job_dir == "/home/user/charlie"
