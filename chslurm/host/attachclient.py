# SPDX-License-Identifier: Apache-2.0
"""The user's end of a connection to the guests of one host: right here, or through a small step of its SLURM job.

    user's command ──────────── abstract socket of oneguest                          the host is this machine
    user's command ── srun ──── relay ── abstract socket of oneguest                 it is a node of a job

Over both go the same bytes: a request, its reply, and what follows from it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePath

from chslurm.errors import ChslurmError
from chslurm.host.attachpoint import make_attach_name, read_peer_uid
from chslurm.host.keys import read_cluster_keys
from chslurm.host.process import make_own_argv, spawn
from chslurm.host.slurm import make_attach_argv
from chslurm.jobdir import JobDir
from chslurm.messages import ATTACH_MAX_BYTES, AttachReply, AttachRequest, decode_attach_reply, encode
from chslurm.plan import Host, Mode, Plan

_CONNECT_S = 5.0
_REPLY_S = 60.0
"""A connection to a guest may take 20 s, a step of a busy SLURM some more."""

_END_S = 3.0


@dataclass(frozen=True, slots=True)
class Channel:
    """An open connection: bytes of the host come from `read_fd`, ours go to `write_fd`."""

    read_fd: int
    write_fd: int
    end: socket.socket | None  # of a connection on this machine
    step: subprocess.Popen[bytes] | None  # that carries the bytes elsewhere

    def close_input(self) -> None:
        """Say no more; the host may go on."""
        with suppress(OSError):
            if self.end is not None:
                self.end.shutdown(socket.SHUT_WR)
            elif self.step is not None and self.step.stdin is not None:
                self.step.stdin.close()


@contextmanager
def open_channel(plan: Plan, host: Host, request: AttachRequest) -> Iterator[Channel]:
    """Connect to the task of one host and make a request. Raises ChslurmError when it is refused or nobody is there."""
    if (end := find_here(plan, host.number)) is not None:
        with end:
            channel = Channel(end.fileno(), end.fileno(), end, None)
            _ask(channel, request)
            yield channel
    elif plan.mode is Mode.CLUSTER:
        with _start_step(plan, host) as channel:
            _ask(channel, request)
            yield channel
    else:
        raise ChslurmError(f"can't reach guests on {host.name}: they do not run on this machine", hint="log in there")


def find_here(plan: Plan, host: int) -> socket.socket | None:
    """Return a connection to the task of this host, None when it does not run here.

    Raises ChslurmError when the cluster's keys are gone, as they are at its end.
    """
    keys = read_cluster_keys(JobDir(PurePath(plan.job_dir)).keys(plan.cluster_id))
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.settimeout(_CONNECT_S)
    with suppress(OSError):
        end.connect(make_attach_name(keys, host))
        if read_peer_uid(end) == os.getuid():
            end.settimeout(None)
            return end
    end.close()
    return None


def relay(plan: Plan, host: int) -> None:
    """Join standard input and output to the task of a host on this machine; when there is none, answer for it."""
    end = find_here(plan, host)
    if end is None:
        reply = AttachReply(error="can't reach the guests of this node: they have ended, or are not started yet")
        os.write(sys.stdout.fileno(), encode(reply))
        return
    with end:
        join_standard_streams(Channel(end.fileno(), end.fileno(), end, None))


def join_standard_streams(channel: Channel) -> None:
    """Pass bytes both ways between a channel and our standard input and output, until the host ends it."""

    def send() -> None:
        with suppress(OSError):
            _copy(sys.stdin.fileno(), channel.write_fd)
        channel.close_input()

    threading.Thread(target=send, daemon=True).start()
    with suppress(OSError):
        _copy(channel.read_fd, sys.stdout.fileno())


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _copy(source: int, target: int) -> None:
    while data := os.read(source, 1 << 17):
        write_all(target, data)


@contextmanager
def _start_step(plan: Plan, host: Host) -> Iterator[Channel]:
    task = make_own_argv("chslurm.cli.main", "relay", "--cluster", plan.job_dir, str(host.number))
    pipe = subprocess.PIPE
    with open(os.memfd_create("srun"), "w+b") as words:
        # TERM and not KILL: an srun that is killed leaves its task behind.
        argv = make_attach_argv(plan, host, task)
        process = spawn(argv, stdin=pipe, stdout=pipe, stderr=words, death_signal=signal.SIGTERM)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Channel(process.stdout.fileno(), process.stdin.fileno(), None, process)
        except _NoReplyError as error:
            words.seek(0)
            said = words.read(4000).decode(errors="replace").strip().splitlines()
            said = [line for line in said if not line.startswith("srun: ")] or said  # rather what our own program said
            why = said[-1].removeprefix("srun: error: ") if said else "srun said nothing"
            raise ChslurmError(f"can't reach node {host.name}: {why}", hint="does the job still run?") from error
        finally:
            with suppress(OSError):
                process.stdin.close()
            _end(process)
            process.stdout.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let srun end with its task, which the end of its input ends; then ask it, then end it."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
            return


class _NoReplyError(Exception):
    """The other side ended without a word, or says none."""


def _ask(channel: Channel, request: AttachRequest) -> None:
    """Make the request and take in the reply, byte by byte: what comes after it belongs to others."""
    line = b""
    with suppress(OSError):
        write_all(channel.write_fd, encode(request))
        while not line.endswith(b"\n") and len(line) < ATTACH_MAX_BYTES:
            if not select.select([channel.read_fd], [], [], _REPLY_S)[0] or not (byte := os.read(channel.read_fd, 1)):
                break
            line += byte
    if not line and channel.step is not None:
        raise _NoReplyError
    if error := decode_attach_reply(line).error:
        raise ChslurmError(error)
