# SPDX-License-Identifier: Apache-2.0
"""The comparison of page and terminal lets through what may differ, and nothing else."""

from __future__ import annotations

import pytest
from comparing import find_difference

SAME = [
    ("2026-01-02T03:04:05: running 99-runjob.sh", "2027-11-12T13:14:15: running 99-runjob.sh"),
    ("job directory: /home/a/charlie.20260102_030405", "job directory: /home/a/charlie.20271112_131415"),
    ("64 bytes from chgu1: icmp_seq=1 ttl=64 time=20.0 ms", "64 bytes from chgu1: icmp_seq=1 ttl=64 time=0.5 ms"),
    ("rtt min/avg/max/mdev = 0.5/7.0/20.0/9.1 ms", "rtt min/avg/max/mdev = 10.554/17.9/20/9 ms"),
    ("cluster ended after 61.2 s: job, exit status 0", "cluster ended after 9.9 s: job, exit status 0"),
    ("/dev/vda1      ext4       16G  1.2G   14G   8% /", "/dev/vda1 ext4 16G 998M 14G 18% /"),
    ("tmpfs          tmpfs     5.0M     0  5.0M   0% /run/lock", "tmpfs   tmpfs 5M 4.0K 5M 1% /run/lock"),
    ("-rw-rw---- 1 charlie staff 1606 Apr 27 16:18 a", "-rw-rw---- 1 charlie staff 1606 Dec  1  2025 a"),
    ("uid=1001(charlie) gid=65530(charlie)", "uid=12345(charlie) gid=65530(charlie)"),
    ("user: chuser (1001), groups chuser (1001)", "user: chuser (1000), groups chuser (1000)"),
    ("Reading package lists... Done", "Reading package lists... Done"),
    ("Setting up sl (...) ...", "Setting up sl (5.02-1+b1) ..."),
    ("charlie  login  2/2  running  0:00:50  -  /home/c", "charlie  login  2/2  running  0:01:07  -  /home/c"),
    ("one  two", "one two"),
    ("trailing", "trailing   "),
]


@pytest.mark.parametrize(("page", "terminal"), SAME)
def test_what_varies_may_differ(page: str, terminal: str) -> None:
    assert find_difference([page], [terminal]) is None


OTHER = [
    ("whoami", "whoamI"),
    ("root", "charlie"),
    ("", "something"),
    ("172.22.1.1 chgu0", "172.22.1.2 chgu0"),
    ("3 packets transmitted, 3 received, 0% packet loss, time 2003ms",
     "3 packets transmitted, 2 received, 33% packet loss, time 2003ms"),
    ("64 bytes from chgu1: icmp_seq=1 ttl=64 time=20.0 ms", "64 bytes from chgu1: icmp_seq=2 ttl=64 time=20.0 ms"),
    ("cluster ended after 61.2 s: job, exit status 0", "cluster ended after 61.2 s: job, exit status 7"),
    ("cluster ended after 61.2 s: job, exit status 0", "cluster ended after 61.2 s: lost, exit status 0"),
    ("/dev/vda1 ext4 16G 1.2G 14G 8% /", "/dev/vdb1 ext4 16G 1.2G 14G 8% /"),
    ("/dev/vda1 ext4 16G 1.2G 14G 8% /", "/dev/vda1 ext4 16G 1.2G 14G 8% /ch"),
    ("-rw-rw---- 1 charlie staff 1606 Apr 27 16:18 a", "-rw-r----- 1 charlie staff 1606 Apr 27 16:18 a"),
    ("-rw-rw---- 1 charlie staff 1606 Apr 27 16:18 a", "-rw-rw---- 1 root staff 1606 Apr 27 16:18 a"),
    ("-rw-rw---- 1 charlie staff 1606 Apr 27 16:18 a", "-rw-rw---- 1 charlie staff 1607 Apr 27 16:18 a"),
    ("uid=1001(charlie) gid=65530(charlie)", "uid=1001(charlie) gid=1001(charlie)"),
    ("Setting up sl (...) ...", "Setting up cowsay (1) ..."),
    ("cluster ended after 61.2 s", "cluster began after 61.2 s"),
    ("charlie  login  2/2  running  0:00:50  -  /home/c", "charlie  login  1/2  running  0:00:50  -  /home/c"),
    ("4 of 4 guests ready", "3 of 4 guests ready"),
]  # fmt: skip


@pytest.mark.parametrize(("page", "terminal"), OTHER)
def test_a_wrong_word_or_number_is_found(page: str, terminal: str) -> None:
    found = find_difference([page], [terminal])
    assert found is not None
    assert "the terminal shows" in found


def test_lines_may_be_left_out_only_where_the_page_says_so() -> None:
    page = ["a", "[...]", "d"]
    assert find_difference(page, ["a", "b", "c", "d"]) is None
    assert find_difference(page, ["a", "d"]) is None
    assert find_difference(page, ["a", "d", "x", "d"]) is None
    assert find_difference(page, ["x", "a", "d"]) is not None
    assert find_difference(page, ["a", "b", "d", "e"]) is not None
    assert find_difference(["a", "d"], ["a", "b", "d"]) is not None


def test_every_line_of_the_page_has_to_come() -> None:
    assert find_difference(["a", "[...]", "b", "c"], ["a", "b"]) is not None
    assert find_difference(["a"], []) is not None
    assert find_difference([], []) is None
    assert find_difference(["a"], ["a", "", ""]) is None


def test_more_may_follow_only_when_it_is_said() -> None:
    assert find_difference(["a"], ["a", "b"], more=True) is None
    assert find_difference(["a"], ["a", "b"]) is not None
    assert find_difference(["b"], ["a", "b"], more=True) is not None


def test_names_of_guests_come_in_any_order_but_all_of_them() -> None:
    page = ["on all?", "chgu0", "chgu1", "chgu1", "", "next"]
    assert find_difference(page, ["on all?", "chgu1", "chgu0", "chgu1", "", "next"]) is None
    assert find_difference(page, ["on all?", "chgu1", "chgu0", "chgu0", "", "next"]) is not None
    assert find_difference(page, ["on all?", "chgu1", "chgu0", "", "next"]) is not None
    assert find_difference(["chgu0: a", "chgu1: b"], ["chgu1: b", "chgu0: a"]) is None
    assert find_difference(["chgu0: a", "chgu1: b"], ["chgu0: b", "chgu1: a"]) is not None


def test_the_difference_names_both_lines() -> None:
    found = find_difference(["a", "right"], ["a", "wrong"])
    assert found == "the page says:\n    right\nthe terminal shows:\n    wrong"
