# SPDX-License-Identifier: Apache-2.0
"""Options become a request, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chslurm.errors import UsageError
from chslurm.plan import Accelerator, TunnelKind
from chslurm.request import MAX_DIRECTORIES, Request

RequestMaker = Callable[..., Request]
OF_ONE_WORD = [
    "image", "guests", "job", "jobdir", "jobbase", "jobname", "cores", "ram", "tmp_size", "log_size", "accel", "tunnel",
]  # fmt: skip


def test_defaults(request_of: RequestMaker) -> None:
    request = request_of()
    assert request.image == PurePath("/home/user/image.qcow2")
    assert request.guest_ct is None
    assert request.interactive, "no --job implies --interactive"
    assert request.job_base == PurePath("/home/user")
    assert request.job_dir is None
    assert request.tmp_mib == 4096
    assert request.sync
    assert request.report
    assert request.accelerator is Accelerator.AUTO
    assert request.tunnel is TunnelKind.AUTO


def test_everything_given(request_of: RequestMaker) -> None:
    request = request_of(
        image="/vm/a, b.qcow2",
        arguments=("-x", "two words"),
        guests="4",
        job="jobs/run.sh",
        dir=("/data", "rel", "c,omma", "li\nne"),
        jobbase="/scratch",
        jobdir="charlie",
        cores="3",
        ram="4G",
        my_size=True,
        nosync=True,
        no_report=True,
        cleanup=True,
        time_limit="1:00:00",
        tmp_dir="/local",
        tmp_size="1G",
        accel="tcg",
        tunnel="wireguard",
        boot_timeout="77",
    )
    assert not request.interactive
    assert not request.report
    assert request.job_script == PurePath("/home/user/jobs/run.sh")
    assert request.job_arguments == ("-x", "two words")
    assert request.directories[1:3] == (PurePath("/home/user/rel"), PurePath("/home/user/c,omma"))
    assert request.job_dir == PurePath("/scratch/charlie")
    assert (request.cores, request.ram_mib, request.tmp_mib) == (3, 4096, 1024)
    assert (request.sync, request.cleanup, request.my_size) == (False, True, True)
    assert (request.time_limit_s, request.boot_timeout_s) == (3600.0, 77.0)
    assert request.accelerator is Accelerator.TCG
    assert request.tunnel is TunnelKind.WIREGUARD


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": ""}, "IMAGE: empty"),
        ({"image": "a\0b"}, "NUL"),
        ({"image": "\udcff"}, "not UTF-8"),
        ({"guests": "0"}, "-n '0'"),
        ({"guests": "-3"}, "-n '-3'"),
        ({"ram": "4G;"}, "--ram '4G;'"),
        ({"ram": "100M"}, "--ram '100M': out of range"),
        ({"cores": str(2**63)}, "--cores"),
        ({"tmp_size": "1"}, "--tmp-size"),
        ({"log_size": "7M"}, "--log-size"),
        ({"time_limit": "now"}, "--time-limit"),
        ({"boot_timeout": "soon"}, "--boot-timeout"),
        ({"accel": "xen"}, "--accel 'xen': unknown"),
        ({"tunnel": "ipsec"}, "--tunnel 'ipsec': unknown; use one of auto, wireguard, vxlan"),
        ({"job": ""}, "--job: empty"),
        ({"dir": ("",)}, "--dir: empty"),
        ({"dir": ("a", "b", "./a")}, "--dir '/home/user/a': given twice"),
        ({"dir": tuple("abcdefghijklmnopq")}, f"at most {MAX_DIRECTORIES}"),
        ({"jobdir": ""}, "--jobdir: empty"),
        ({"jobdir": "a\nb"}, "control character"),
        ({"jobbase": "a\x1b[0m"}, "control character"),
        ({"jobname": ""}, "--jobname ''"),
        ({"jobname": "../x"}, "--jobname '../x'"),
        ({"jobname": "-n"}, "--jobname '-n'"),
        ({"jobname": "x" * 65}, "--jobname"),
        ({"jobname": "a\n"}, "--jobname"),
        ({"arguments": ("a",)}, "add --job"),
        ({"job": "j", "arguments": ("x" * 50_000,)}, "job arguments"),
        ({"my_size": True}, "--my-size"),
        ({"dry_run": True, "explain": True}, "--dry-run and --explain"),
    ],
)
def test_what_is_refused(request_of: RequestMaker, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        request_of(**options)
    assert words in str(error.value)
    assert str(error.value).isprintable()


@given(
    name=st.sampled_from(OF_ONE_WORD),
    text=st.one_of(st.text(), st.text(alphabet="0123456789GMKT-;,\0\n\udcff./")),
)
def test_any_text_makes_a_request_or_an_error(request_of: RequestMaker, name: str, text: str) -> None:
    try:
        request_of(**{name: text})
    except UsageError as error:
        assert str(error).isprintable()  # noqa: PT017
