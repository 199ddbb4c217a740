# SPDX-License-Identifier: Apache-2.0
"""What a site allows: each limit alone, what it leaves as it was, and one line for who asks for more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.allocation import Allocation, Node
from chslurm.errors import UsageError
from chslurm.kinds import Mode, NetworkKind, TunnelKind
from chslurm.limits import NO_LIMITS, Limits, check_machine, check_place, choose_allowed, reserve
from chslurm.request import Request
from chslurm.sizes import GuestSize, make_guest_sizes

RequestMaker = Callable[..., Request]

FILE = "/etc/charliecloud/config.toml"
JOB = Allocation(Mode.CLUSTER, (Node("cn001", 8, 8000), Node("cn002", 4, 4000)), "42")
DESK = Allocation(Mode.WORKSTATION, (Node("desk", 4, 16000, 12000),))


def sizes_of(request: Request, allocation: Allocation) -> list[GuestSize]:
    return list(make_guest_sizes(request, reserve(allocation, request.limits))[0])


def test_without_limits_nothing_changes(request_of: RequestMaker) -> None:
    assert reserve(JOB, NO_LIMITS) is JOB
    check_machine(NO_LIMITS, "login1")
    check_place(NO_LIMITS, "image", PurePath("/tmp/x"), [])
    assert choose_allowed(TunnelKind.AUTO, None, "--tunnel", "") is TunnelKind.AUTO


def test_what_is_reserved_is_not_the_guests(request_of: RequestMaker) -> None:
    free = sizes_of(request_of(guests="4"), JOB)
    less = sizes_of(request_of(guests="4", limits=Limits(reserved_cores=2, reserved_ram_mib=1000, file=FILE)), JOB)
    assert [(size.guest_ct, size.cores) for size in free] == [(2, 4), (2, 2)]
    assert [(size.guest_ct, size.cores) for size in less] == [(2, 3), (2, 1)]
    assert [size.node.memory_mib for size in less] == [7000, 3000]
    assert all(490 < before.ram_mib - after.ram_mib <= 500 for before, after in zip(free, less, strict=True))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            Limits(reserved_cores=4, file=FILE),
            "node cn002: of its 4 cores the site reserves 4 (limits.reserved_cores in ",
        ),
        (Limits(reserved_ram_mib=4000, file=FILE), "node cn002: of its 3.906 GiB the site reserves 3.906 GiB (limits."),
    ],
)
def test_a_node_of_which_all_is_reserved_is_refused(limits: Limits, words: str) -> None:
    with pytest.raises(UsageError) as error:
        reserve(JOB, limits)
    assert str(error.value).startswith(f"can't use {words}")
    assert f"{FILE}); ask SLURM for more" in str(error.value)


def test_who_has_too_little_memory_is_told_what_is_reserved(request_of: RequestMaker) -> None:
    limits = Limits(reserved_ram_mib=3500, file=FILE)
    for allocation, options in ((JOB, {}), (DESK, {"ram": "9G"})):
        with pytest.raises(UsageError, match=r"\(3\.418 GiB more are reserved: limits\.reserved_ram in /etc/"):
            sizes_of(request_of(limits=limits, **options), allocation)


@given(
    cores=st.integers(1, 64),
    guests=st.integers(1, 40),
    reserved=st.integers(1, 64),
    asked=st.none() | st.integers(1, 64),
    in_job=st.booleans(),
)
def test_guests_never_have_more_cores_than_are_left(
    request_of: RequestMaker, cores: int, guests: int, reserved: int, asked: int | None, in_job: bool
) -> None:
    mode = Mode.CLUSTER if in_job else Mode.WORKSTATION
    allocation = Allocation(mode, (Node("n1", cores, 1 << 20, 1 << 20),), "42")
    limits = Limits(reserved_cores=reserved, file=FILE)
    request = request_of(
        guests=str(guests), cores=None if asked is None else str(asked), my_size=asked is not None, limits=limits
    )
    try:
        (size,) = sizes_of(request, allocation)
    except UsageError:
        assert cores - reserved < guests * (asked or 1)
    else:
        assert size.guest_ct * size.cores <= cores - reserved


def test_guests_of_a_workstation_get_fewer_cores_rather_than_none(request_of: RequestMaker) -> None:
    limits = Limits(reserved_cores=1, file=FILE)
    assert [(size.guest_ct, size.cores) for size in sizes_of(request_of(limits=limits), DESK)] == [(2, 1)]
    with pytest.raises(UsageError, match=r"can't give 2 guests 2 cores each on node desk: 3 are left .* fewer"):
        sizes_of(request_of(cores="2", limits=limits), DESK)


def test_so_many_guests_on_a_node_and_no_more(request_of: RequestMaker) -> None:
    limits = Limits(guests_per_node=2, file=FILE)
    assert [size.guest_ct for size in sizes_of(request_of(guests="4", limits=limits), JOB)] == [2, 2]
    with pytest.raises(UsageError, match=r"can't place 3 guests on node cn001: the site allows 2 \(limits\.guests_per"):
        sizes_of(request_of(guests="5", limits=limits), JOB)
    with pytest.raises(UsageError, match="node desk: the site allows 1"):
        sizes_of(request_of(limits=Limits(guests_per_node=1, file=FILE)), DESK)


def test_of_kinds_auto_is_what_is_left(request_of: RequestMaker) -> None:
    limits = Limits(networks=(NetworkKind.ROOTLESS,), tunnels=(TunnelKind.WIREGUARD,), file=FILE)
    request = request_of(limits=limits)
    assert (request.network, request.tunnel) == (NetworkKind.ROOTLESS, TunnelKind.WIREGUARD)
    assert request_of(limits=limits, network="rootless").network is NetworkKind.ROOTLESS
    both = Limits(networks=(NetworkKind.SITE, NetworkKind.ROOTLESS), file=FILE)
    assert request_of(limits=both).network is NetworkKind.AUTO


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"network": "site"}, "can't use --network site: the site does not allow it (limits.networks in /etc/"),
        ({"tunnel": "vxlan"}, "can't use --tunnel vxlan: the site does not allow it (limits.tunnels in /etc/"),
    ],
)
def test_other_kinds_are_refused(request_of: RequestMaker, asked: dict[str, str], words: str) -> None:
    limits = Limits(networks=(NetworkKind.ROOTLESS,), tunnels=(TunnelKind.WIREGUARD,), file=FILE)
    with pytest.raises(UsageError) as error:
        request_of(limits=limits, **asked)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize("name", ["ws1", "WS2", "ws1.example.org", "vis.example.org"])
def test_machines_of_the_list_run_guests(name: str) -> None:
    check_machine(Limits(workstations=("ws1", "ws2", "vis.example.org"), file=FILE), name)


@pytest.mark.parametrize(("allowed", "name"), [((), "ws1"), (("ws1",), "ws10"), (("vis.example.org",), "vis")])
def test_others_do_not(allowed: tuple[str, ...], name: str) -> None:
    with pytest.raises(
        UsageError, match=rf"can't run guests on {name} outside of a SLURM job: .*; use salloc or sbatch"
    ):
        check_machine(Limits(workstations=allowed, file=FILE), name)


def test_a_place_is_in_a_folder_by_whole_names() -> None:
    limits = Limits(image_folders=("/data/vm",), file=FILE)
    folders = [PurePath("/data/vm")]
    check_place(limits, "image", PurePath("/data/vm/a/b.qcow2"), folders)
    for path in ("/data/vm2/b.qcow2", "/data/b.qcow2", "/home/data/vm/b.qcow2"):
        with pytest.raises(UsageError, match=r"can't use image '/.*': it is not in a folder .*; use one in '/data/vm'"):
            check_place(limits, "image", PurePath(path), folders)
    with pytest.raises(UsageError, match="ask the site for one"):
        check_place(Limits(image_folders=(), file=FILE), "image", PurePath("/data/vm/x"), [])
