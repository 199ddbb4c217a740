# SPDX-License-Identifier: Apache-2.0
"""The head's judgement, with a clock made of numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.messages import Event, EventKind, Order, OrderKind
from chslurm.phases import Cause, GuestPhase, Phase, judge_job_end
from chslurm.plan import Plan
from chslurm.report import make_summary, render_summary
from chslurm.supervise import Supervisor


class Play:
    """A supervisor, and the clock it is shown."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.now_s = 100.0
        self.head = Supervisor(plan, self.now_s)

    def host(self, kind: EventKind, host: int, **fields: object) -> list[Order]:
        self.now_s += 0.01
        return self.head.on_event(Event(kind, host, **fields), self.now_s)  # type: ignore[arg-type]

    def guest(self, kind: EventKind, guest: int, **fields: object) -> list[Order]:
        return self.host(kind, self.plan.guests[guest].host, guest=guest, **fields)

    def every_guest(self, kind: EventKind, **fields: object) -> list[list[Order]]:
        return [self.guest(kind, guest.id, **fields) for guest in self.plan.guests]

    def every_host(self, kind: EventKind, **fields: object) -> list[list[Order]]:
        return [self.host(kind, host.number, **fields) for host in self.plan.hosts]

    def boot(self) -> None:
        self.every_host(EventKind.NODE_UP)
        self.every_guest(EventKind.GUEST_STARTED)
        self.every_host(EventKind.FABRIC_READY)
        self.every_guest(EventKind.GUEST_STAGE, text="kernel")
        self.every_guest(EventKind.GUEST_READY)

    def run_jobs(self, *statuses: int) -> list[Order]:
        self.every_guest(EventKind.JOB_STARTED)
        orders: list[Order] = []
        for guest, status in reversed(list(enumerate(statuses))):
            orders += self.guest(EventKind.JOB_ENDED, guest, status=status)
        return orders

    def leave(self) -> int:
        self.every_guest(EventKind.GUEST_GONE, text="shut down")
        self.every_host(EventKind.NODE_DONE)
        assert self.head.over
        return make_summary(self.plan, self.head, self.now_s).exit_status

    def wait(self, seconds: float) -> list[Order]:
        """Let time pass while every host says that it is there."""
        orders: list[Order] = []
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 0.25
            for host in self.plan.hosts:
                self.host(EventKind.PULSE, host.number)
            orders += self.head.on_time(self.now_s)
        return orders

    @property
    def lines(self) -> str:
        return "\n".join(render_summary(make_summary(self.plan, self.head, self.now_s)))


@pytest.fixture
def play(plan_of: Callable[..., Plan]) -> Play:
    return Play(plan_of())


@pytest.mark.parametrize(
    ("statuses", "expected"), [((0, 0, 0), 0), ((7, 0, 0), 7), ((0, 3, 5), 5), ((2, 9, 9), 2), ((143, 0, 0), 143)]
)
def test_exit_status_is_guest_0s_or_the_largest_of_the_others(
    play: Play, statuses: tuple[int, ...], expected: int
) -> None:
    play.boot()
    assert play.run_jobs(*statuses) == [Order(OrderKind.POWER_DOWN)]
    assert play.leave() == expected
    assert play.head.cause is Cause.JOB


def test_failed_guests_are_listed_with_their_nodes(play: Play) -> None:
    play.boot()
    play.run_jobs(0, 3, 0)
    play.leave()
    assert "guest 1 on cn002: job ended with 3" in play.lines


def test_guests_other_than_0_get_their_time_and_then_all_power_down(play: Play) -> None:
    play.boot()
    play.every_guest(EventKind.JOB_STARTED)
    assert play.guest(EventKind.JOB_ENDED, 0, status=0) == []
    assert play.wait(50) == []
    assert play.wait(11) == [Order(OrderKind.POWER_DOWN)]
    assert play.leave() == 0
    assert "guest 1 on cn002: job" in play.lines


def test_tunnel_is_opened_with_the_smallest_path(play: Play) -> None:
    play.every_host(EventKind.NODE_UP)
    assert play.host(EventKind.TUNNEL_OFFER, 1, address="10.0.0.1", port=1, mtu=1500) == []
    assert play.host(EventKind.TUNNEL_OFFER, 3, address="10.0.0.3", port=3, mtu=1500) == []
    assert [o.kind for o in play.host(EventKind.TUNNEL_OFFER, 2, address="10.0.0.2", port=2, mtu=1400)] == [
        OrderKind.PEERS
    ]
    assert [event.address for event in play.head.rendezvous.reported(EventKind.TUNNEL_OFFER)] == [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
    ]
    play.host(EventKind.TUNNEL_MTU, 1, mtu=1500)
    play.host(EventKind.TUNNEL_MTU, 2, mtu=1400)
    assert play.host(EventKind.TUNNEL_MTU, 3, mtu=1500) == [Order(OrderKind.MTU, mtu=1400)]


def test_barrier_opens_when_all_have_arrived(play: Play) -> None:
    assert play.guest(EventKind.BARRIER, 0, text="boot") == []
    assert play.guest(EventKind.BARRIER, 0, text="boot") == []
    assert play.guest(EventKind.BARRIER, 2, text="boot") == []
    assert play.guest(EventKind.BARRIER, 1, text="boot") == [Order(OrderKind.RELEASE, text="boot")]


def test_lost_guest_ends_the_cluster_with_70_and_names_itself(play: Play) -> None:
    play.boot()
    play.every_guest(EventKind.JOB_STARTED)
    orders = play.guest(EventKind.GUEST_GONE, 1, status=1, text="QEMU ended: killed by SIGKILL")
    assert orders == [Order(OrderKind.POWER_DOWN)]
    assert play.leave() == 70
    assert "guest 1 on cn002: QEMU ended: killed by SIGKILL; see out/1_console.out" in play.lines


def test_power_off_in_batch_mode_is_no_success(play: Play) -> None:
    play.boot()
    play.guest(EventKind.GUEST_GONE, 2, status=0, text="shut down")
    assert play.leave() == 70


def test_interactive_cluster_ends_with_guest_0_and_only_with_it(plan_of: Callable[..., Plan]) -> None:
    play = Play(plan_of(interactive=True))
    play.boot()
    assert play.guest(EventKind.GUEST_GONE, 2, status=0, text="shut down") == []
    assert play.guest(EventKind.GUEST_GONE, 0, status=0, text="shut down") == [Order(OrderKind.POWER_DOWN)]
    assert play.leave() == 0
    assert play.head.cause is Cause.SHUTDOWN


def test_every_stage_of_winding_down_has_its_deadline(play: Play) -> None:
    play.boot()
    play.run_jobs(0, 0, 0)
    assert play.wait(60) == [Order(OrderKind.QUIT), Order(OrderKind.KILL)]
    assert play.head.over


def test_cancel_fits_into_slurms_kill_wait(play: Play) -> None:
    play.boot()
    assert play.head.on_signal(Cause.CANCELLED, "cancelled", play.now_s) == [Order(OrderKind.POWER_DOWN)]
    began_s = play.now_s
    while not play.head.over:
        play.wait(0.5)
    assert play.now_s - began_s < 30
    assert make_summary(play.plan, play.head, play.now_s).exit_status == 143


def test_stop_leaves_guests_their_time_until_slurm_cancels(play: Play) -> None:
    """What the user ends by himself, SLURM does not kill."""
    limits = play.plan.deadlines
    play.boot()
    play.run_jobs()
    assert play.host(EventKind.STOP_ASKED, 1) == [Order(OrderKind.POWER_DOWN)]
    assert play.wait(limits.power_down_s - 2) == []
    began_s = play.now_s
    play.head.on_signal(Cause.CANCELLED, "cancelled", play.now_s)
    while not play.head.over:
        play.wait(0.5)
    assert play.now_s - began_s < limits.cancel_s


def test_guest_lost_by_slurms_term_is_a_cancellation(play: Play) -> None:
    play.boot()
    play.guest(EventKind.GUEST_GONE, 1, status=1, text="QEMU was ended by a signal")
    play.head.on_signal(Cause.CANCELLED, "cancelled (SIGTERM)", play.now_s + 1)
    assert play.leave() == 143


def test_second_interrupt_hurries(play: Play) -> None:
    play.boot()
    assert play.head.on_signal(Cause.INTERRUPTED, "interrupted", play.now_s) == [Order(OrderKind.POWER_DOWN)]
    assert play.head.on_signal(Cause.INTERRUPTED, "interrupted", play.now_s) == [Order(OrderKind.QUIT)]
    assert play.leave() == 130


def test_time_limit(plan_of: Callable[..., Plan]) -> None:
    play = Play(plan_of(time_limit_s=50))
    play.boot()
    assert play.wait(49) == []
    assert play.wait(2) == [Order(OrderKind.POWER_DOWN)]
    assert play.leave() == 124


def test_slurm_knows_why_a_host_was_told_to_end(play: Play) -> None:
    play.boot()
    play.host(EventKind.NODE_TOLD_TO_END, 2, text="SIGTERM")
    assert (play.head.cause, play.head.text) == (Cause.LOST, "node cn002: SIGTERM came to oneguest")
    play.head.learn(Cause.CANCELLED, "the SLURM job was cancelled")
    assert (play.head.cause, play.head.text) == (Cause.CANCELLED, "the SLURM job was cancelled")


def test_what_slurm_knows_is_no_reason_for_another_loss(play: Play) -> None:
    play.boot()
    play.host(EventKind.NODE_LOST, 3, text="silent")
    play.host(EventKind.NODE_TOLD_TO_END, 2, text="SIGTERM")
    play.head.learn(Cause.CANCELLED, "the SLURM job was cancelled")
    assert play.head.cause is Cause.LOST


@pytest.mark.parametrize(
    ("state", "reason", "now_s", "cause"),
    [
        ("CANCELLED", "None", 0.0, Cause.CANCELLED),
        ("COMPLETING", "None", 0.0, Cause.CANCELLED),
        ("COMPLETING", "TimeLimit", 0.0, Cause.TIME_LIMIT),
        ("COMPLETING", "None", 99.0, Cause.TIME_LIMIT),
        ("TIMEOUT", "TimeLimit", 0.0, Cause.TIME_LIMIT),
    ],
)
def test_slurms_record_of_the_job_tells_the_cause(state: str, reason: str, now_s: float, cause: Cause) -> None:
    assert judge_job_end(state, reason, 100.0, now_s) is cause


def test_silent_node_is_lost(play: Play) -> None:
    play.boot()
    for _ in range(40):
        play.now_s += 1
        play.host(EventKind.PULSE, 1)
        play.host(EventKind.PULSE, 3)
        play.head.on_time(play.now_s)
    assert play.head.cause is Cause.LOST
    assert "node cn002 is lost: silent for" in play.head.text


@pytest.mark.parametrize(("spoke", "after_s", "words"), [(False, 101, "silent for"), (True, 301, "not ready after 30")])
def test_hung_guest_is_named_with_the_stage_it_reached(play: Play, spoke: bool, after_s: float, words: str) -> None:
    play.every_host(EventKind.NODE_UP)
    play.every_host(EventKind.FABRIC_READY)
    play.every_guest(EventKind.GUEST_STARTED)
    if spoke:
        play.every_guest(EventKind.GUEST_STAGE, text="10-storage.sh")
    play.guest(EventKind.GUEST_READY, 0)
    play.guest(EventKind.GUEST_READY, 2)
    assert Order(OrderKind.POWER_DOWN) in play.wait(after_s)
    assert play.head.text.startswith(f"guest 1 on cn002: {words}")


def test_long_work_that_goes_on_is_given_time_but_not_for_ever(play: Play) -> None:
    play.every_host(EventKind.NODE_UP)
    play.every_host(EventKind.FABRIC_READY)
    play.every_guest(EventKind.GUEST_STARTED)
    play.guest(EventKind.GUEST_READY, 0)
    play.guest(EventKind.GUEST_READY, 2)
    began_s = play.now_s
    while play.now_s < began_s + 2900:
        play.guest(EventKind.GUEST_STAGE, 1, text=f"20-users.{play.now_s:.0f}-files")
        assert play.wait(100) == []
    assert "cn002: guests give charlie's files to their new owner, which may take minutes" in play.head.notes
    assert Order(OrderKind.POWER_DOWN) in play.wait(200)
    assert play.head.text.startswith("guest 1 on cn002: not ready after 300")


@pytest.mark.parametrize("text", ["20-users.7-files", "80-sync"])
def test_saying_the_same_again_is_no_progress(play: Play, text: str) -> None:
    play.every_host(EventKind.NODE_UP)
    play.every_host(EventKind.FABRIC_READY)
    play.every_guest(EventKind.GUEST_STARTED)
    for _ in range(4):
        play.every_guest(EventKind.GUEST_STAGE, text=text)
        play.wait(80)
    assert play.head.text.startswith("guest 0 on cn001: not ready after 30")
    assert f"; last stage: {text} (" in play.head.text


def test_nodes_that_never_report_are_named(play: Play) -> None:
    play.host(EventKind.NODE_UP, 1)
    for _ in range(70):
        play.now_s += 1
        play.host(EventKind.PULSE, 1)
        play.head.on_time(play.now_s)
    assert "node cn002, cn003 did not report within 60 s" in play.lines


def test_guest_lost_before_its_job_ended_counts_also_when_guest_0s_has(play: Play) -> None:
    play.boot()
    play.every_guest(EventKind.JOB_STARTED)
    play.guest(EventKind.JOB_ENDED, 0, status=0)
    play.guest(EventKind.GUEST_GONE, 1, status=1, text="QEMU ended: killed by SIGKILL")
    assert play.leave() == 70


def test_guest_lost_after_its_job_ended_is_noted_only(play: Play) -> None:
    play.boot()
    play.every_guest(EventKind.JOB_STARTED)
    play.guest(EventKind.JOB_ENDED, 1, status=0)
    play.guest(EventKind.JOB_ENDED, 0, status=0)
    play.guest(EventKind.GUEST_GONE, 1, status=1, text="QEMU ended: killed by SIGKILL")
    play.guest(EventKind.JOB_ENDED, 2, status=0)
    assert play.head.notes == ["guest 1 on cn002: QEMU ended: killed by SIGKILL; see out/1_console.out"]
    assert play.leave() == 0


def test_hosts_own_reason_replaces_sruns(play: Play) -> None:
    play.boot()
    play.host(EventKind.NODE_LOST, 2, text="oneguest ended: Exited with exit code 70")
    play.host(EventKind.NODE_FAILED, 2, text="can't start qemu-system-x86_64: No such file or directory")
    assert "node cn002: can't start qemu-system-x86_64" in play.lines
    assert "is lost" not in play.lines


def test_what_follows_from_a_hosts_failure_is_no_cause(play: Play) -> None:
    """A host that fails says so, kills its guests, and says it once more as its last word."""
    play.host(EventKind.NODE_FAILED, 2, text="can't make a WireGuard device: Unknown device type")
    play.guest(EventKind.GUEST_GONE, 1, status=1, text="QEMU ended: killed by SIGKILL")
    play.host(EventKind.NODE_FAILED, 2, text="can't make a WireGuard device: Unknown device type")
    assert "node cn002: can't make a WireGuard device: Unknown device type" in play.lines
    assert play.head.notes == []


def test_node_lost_while_the_cluster_ends_is_not_waited_for(play: Play) -> None:
    play.boot()
    play.run_jobs(0, 0, 0)
    play.host(EventKind.NODE_DONE, 1)
    play.host(EventKind.NODE_DONE, 2)
    play.host(EventKind.NODE_LOST, 3, text="silent")
    assert play.head.over
    assert make_summary(play.plan, play.head, play.now_s).exit_status == 0


def test_barrier_does_not_wait_for_guests_that_are_gone(plan_of: Callable[..., Plan]) -> None:
    play = Play(plan_of(interactive=True))
    play.guest(EventKind.BARRIER, 0, text="boot")
    play.guest(EventKind.BARRIER, 1, text="boot")
    assert play.guest(EventKind.GUEST_GONE, 2, status=0) == [Order(OrderKind.RELEASE, text="boot")]


def test_time_that_the_head_did_not_have_is_not_held_against_hosts(play: Play) -> None:
    play.boot()
    play.now_s += 120
    play.head.forgive(120)
    assert play.head.on_time(play.now_s) == []
    play.now_s += 31
    assert play.head.on_time(play.now_s) != []


def test_hosts_that_bring_disks_home_have_as_long_as_they_pulse(play: Play) -> None:
    play.boot()
    play.run_jobs(0, 0, 0)
    play.every_guest(EventKind.GUEST_GONE, text="shut down")
    assert play.wait(200) == []
    assert not play.head.over
    play.now_s += 16
    play.head.on_time(play.now_s)
    assert play.head.over


def test_step_that_ends_early_is_machinery(play: Play) -> None:
    play.boot()
    play.host(EventKind.STEP_ENDED, 0, status=1, text="exit status 1: srun: error: ...")
    assert play.head.over
    assert make_summary(play.plan, play.head, play.now_s).exit_status == 70


@given(
    st.lists(
        st.builds(
            Event,
            kind=st.sampled_from(EventKind),
            host=st.integers(-1, 5),
            guest=st.integers(-2, 5),
            status=st.integers(0, 255),
            text=st.text(max_size=10),
            mtu=st.integers(0, 9000),
        ),
        max_size=60,
    )
)
def test_any_sequence_of_events_ends_and_never_goes_back(plan_of: Callable[..., Plan], events: list[Event]) -> None:
    head = Supervisor(plan_of(), 0.0)
    now_s, phase = 0.0, Phase.STARTING
    for event in events:
        now_s += 0.5
        head.on_event(event, now_s)
        head.on_time(now_s)
        assert head.phase >= phase
        phase = head.phase
    head.on_signal(Cause.CANCELLED, "cancelled", now_s)
    for _ in range(200):
        now_s += 1
        head.on_time(now_s)
    assert head.over
    assert head.cause is not None
    assert all(isinstance(state.phase, GuestPhase) for state in head.guests.values())


def test_how_each_guest_ended_is_known_also_when_all_power_down(play: Play) -> None:
    play.boot()
    play.run_jobs(0, 0, 0)
    play.guest(EventKind.GUEST_GONE, 0, status=0, text="shut down")
    play.guest(EventKind.GUEST_GONE, 1, status=1, text="quit on order")
    play.host(EventKind.NODE_LOST, 3, text="silent")
    play.every_host(EventKind.NODE_DONE)
    reports = make_summary(play.plan, play.head, play.now_s).guests
    assert [(guest.clean, guest.end) for guest in reports] == [
        (True, "shut down"),
        (False, "quit on order"),
        (False, ""),
    ]


def test_what_a_host_can_not_bring_home_is_told(play: Play) -> None:
    play.boot()
    play.run_jobs(0, 0, 0)
    play.host(EventKind.NODE_FAILED, 2, text="can't keep 1.overlay.qcow2: No space left on device")
    assert play.leave() == 0
    assert play.head.notes == ["cn002: can't keep 1.overlay.qcow2: No space left on device"]
