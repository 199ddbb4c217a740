# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line: nothing in a path can become an option, and what keeps a guest in is always there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.guest import (
    MOST_TAP_FDS,
    Disk,
    Kernel,
    Machine,
    Offer,
    choose_queues,
    escape,
    make_image_disk,
    make_machine,
    make_qemu_argv,
)
from chslurm.plan import Accelerator, Plan

FILE_NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.fixture
def machine(plan_of: Callable[..., Plan]) -> Machine:
    plan = plan_of()
    root = Disk("/home/user/charlie/run/1.overlay.qcow2", backing=Disk(plan.image.path, read_only=True))
    offer = Offer(Accelerator.TCG, "/usr/share/qemu/qboot.rom", Kernel(10, 11, "root=/dev/vda1"))
    return make_machine(plan, plan.guests[1], offer, root, Disk("gone", fd=12), (13,))


def test_guest_is_kept_in(machine: Machine) -> None:
    argv = make_qemu_argv(machine)
    sandbox = argv[argv.index("-sandbox") + 1]
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    assert not {"-vnc", "-spice", "-monitor", "-qmp", "-serial", "-virtfs", "-drive"} & set(argv)
    fsdevs = [argv[i + 1] for i, word in enumerate(argv) if word == "-fsdev"]
    writable = [word.split(",")[1] for word in fsdevs if "readonly=on" not in word]
    assert writable == ["id=sync", "id=data1"]


def test_machine_is_what_the_plan_says(machine: Machine) -> None:
    text = " ".join(make_qemu_argv(machine))
    assert "-m 1024M" in text
    assert "-smp 2" in text
    assert "mac=02:00:ac:16:02:01" in text
    assert "fd=13" in text
    assert "-kernel /proc/self/fd/10 -initrd /proc/self/fd/11" in text
    assert machine.fds == (13, -1, -1, -1, 12, 10, 11)


def test_a_screen_is_there_when_it_is_asked_for(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    for display, words in ((None, "none"), ("gtk", "gtk,window-close=off")):
        offer = Offer(Accelerator.TCG, None, None, display)
        argv = make_qemu_argv(make_machine(plan, plan.guests[0], offer, Disk("/r"), Disk("/t"), (3,)))
        assert argv[argv.index("-display") + 1] == words
        assert any(word.startswith("VGA") for word in argv) is (display is not None)
        assert "-sandbox" in argv


@pytest.mark.parametrize("vhost", [False, True])
def test_packets_go_by_the_kernel_where_it_offers_that(plan_of: Callable[..., Plan], vhost: bool) -> None:
    plan = plan_of()
    offer = Offer(Accelerator.TCG, None, None, vhost=vhost)
    argv = make_qemu_argv(make_machine(plan, plan.guests[0], offer, Disk("/r"), Disk("/t"), (3,)))
    assert argv[argv.index("-netdev") + 1] == f"tap,id=net,fd=3{',vhost=on' if vhost else ''}"


def test_by_vhost_net_guests_have_a_queue_for_each_core(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    offer = Offer(Accelerator.TCG, None, None, vhost=True)
    argv = make_qemu_argv(make_machine(plan, plan.guests[0], offer, Disk("/r"), Disk("/t"), (3, 7)))
    assert argv[argv.index("-netdev") + 1] == "tap,id=net,fds=3:7,vhost=on"
    (card,) = (word for word in argv if word.startswith("virtio-net-pci"))
    assert card.endswith(",mq=on,vectors=6,romfile=")


@given(cores=st.lists(st.integers(1, 512), max_size=MOST_TAP_FDS), vhost=st.booleans())
def test_all_queues_of_a_host_can_be_handed_over(cores: list[int], vhost: bool) -> None:
    queue_cts = choose_queues(cores, vhost)
    assert sum(queue_cts) <= MOST_TAP_FDS
    assert all(1 <= queue_ct <= min(core_ct, 8) for queue_ct, core_ct in zip(queue_cts, cores, strict=True))
    assert vhost or set(queue_cts) <= {1}


def test_kvm_uses_the_hosts_processor(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    machine = make_machine(plan, plan.guests[0], Offer(Accelerator.KVM, None, None), Disk("/r"), Disk("/t"), (3,))
    argv = make_qemu_argv(machine)
    assert argv[argv.index("-accel") + 1] == "kvm"
    assert argv[argv.index("-cpu") + 1] == "host"
    assert "-kernel" not in argv
    assert "-bios" not in argv


def test_qemu_is_told_every_layer_and_that_there_is_no_more(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    root = Disk("/o", backing=make_image_disk(plan.image))
    machine = make_machine(plan, plan.guests[0], Offer(Accelerator.TCG, None, None), root, Disk("/t"), (3,))
    root_block, temporary_block = (json.loads(word) for word in make_qemu_argv(machine) if word.startswith("{"))
    image = root_block["backing"]
    base = image["backing"]
    assert [
        (block["driver"], block["file"]["filename"], block["read-only"]) for block in (root_block, image, base)
    ] == [
        ("qcow2", "/o", False),
        ("qcow2", "/images/a,b.qcow2", True),
        ("raw", "/images/base", True),
    ]
    assert "backing" not in base, "a raw file has no header to follow"
    assert temporary_block["backing"] is None


@given(FILE_NAMES)
def test_any_file_name_of_a_disk_stays_a_file_name(plan_of: Callable[..., Plan], name: str) -> None:
    plan = plan_of()
    machine = make_machine(plan, plan.guests[0], Offer(Accelerator.TCG, None, None), Disk(name), Disk("/t"), (3,))
    argv = make_qemu_argv(machine)
    block = json.loads(argv[argv.index("-blockdev") + 1])
    assert block["file"] == {"driver": "file", "filename": name}


@given(FILE_NAMES)
def test_escaped_commas_do_not_end_a_value(name: str) -> None:
    # QEMU's own rule, written down anew: a single comma ends a value, two are one of the value's.
    escaped, value, position = escape(PurePath("/" + name)), "", 0
    while position < len(escaped):
        if escaped[position] == ",":
            assert escaped[position + 1] == ","
            position += 1
        value += escaped[position]
        position += 1
    assert value == str(PurePath("/" + name))
