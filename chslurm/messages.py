# SPDX-License-Identifier: Apache-2.0
"""What the head, the hosts and the guests say to each other: one JSON object per line, bounded and typed.

    host  -> head    Event        stdout of the step's task; one write of at most 900 bytes, since slurmstepd cuts and
                                  mixes lines beyond about 1024
    head  -> host    Order        stdin of the step, the same line to every task
    guest -> host    GuestWord    virtio-serial port `chslurm.control`; written by root of a guest, so hostile
    host  -> guest   GuestOrder   the same port
    user  -> host    AttachRequest  a socket of the host's task that only the user reaches; then, for a console,
    host  -> user    AttachReply    ConsoleInput lines one way and what the guest prints the other way

Whatever does not decode into these types is refused here and nowhere else.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

EVENT_MAX_BYTES = 900
GUEST_WORD_MAX_BYTES = 4096
ATTACH_MAX_BYTES = 65536


class EventKind(StrEnum):
    """What a host reports."""

    NODE_UP = "node_up"  # the task runs and has read its part of the plan
    NODE_FACTS = "node_facts"  # text: versions of what runs the guests here
    NODE_NOTE = "node_note"  # text: a choice and its reason, a warning
    TUNNEL_OFFER = "tunnel_offer"  # address, port: where this host listens, or "site"; text: why no WireGuard
    TUNNEL_MTU = "tunnel_mtu"  # mtu: what really passes to the next host
    FABRIC_READY = "fabric_ready"
    GUEST_STARTED = "guest_started"  # QEMU runs; pid in `status`
    GUEST_STAGE = "guest_stage"  # text: how far the boot is
    GUEST_READY = "guest_ready"
    BARRIER = "barrier"  # text: its name
    JOB_STARTED = "job_started"
    JOB_ENDED = "job_ended"  # status
    GUEST_GONE = "guest_gone"  # text: why; `status` 0 when the guest was shut down from inside, 1 when it was lost
    NODE_TOLD_TO_END = "node_told_to_end"  # text: the signal that came to this host's task
    NODE_FAILED = "node_failed"  # text
    CHECKUP = "checkup"  # text: what on this host could be why no guest has come up here; before its last word
    NODE_DONE = "node_done"  # everything on this host is undone
    TRIAL = "trial"  # text: what this host did and saw in a turn of a check of the network
    STOP_ASKED = "stop_asked"  # the user wants the cluster to end
    PULSE = "pulse"  # still here
    NODE_LOST = "node_lost"  # made by the head itself when srun reports a task's end or a host falls silent
    STEP_ENDED = "step_ended"  # made by the head itself: srun (or the child) has ended; status


GUEST_EVENTS = frozenset(
    {
        EventKind.GUEST_STARTED,
        EventKind.GUEST_STAGE,
        EventKind.GUEST_READY,
        EventKind.GUEST_GONE,
        EventKind.BARRIER,
        EventKind.JOB_STARTED,
        EventKind.JOB_ENDED,
    }
)
"""Events about one guest; all others are about a host."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened on a host. `host` is Host.number, `guest` Guest.id or -1."""

    kind: EventKind
    host: int
    guest: int = -1
    status: int = 0
    text: str = ""
    address: str = ""
    port: int = 0
    mtu: int = 0


class OrderKind(StrEnum):
    """What the head asks of all hosts."""

    PEERS = "peers"  # file in run/ with every host's tunnel address; digest in `text`
    MTU = "mtu"  # the smallest path of all: open the tunnel with it
    RELEASE = "release"  # text: the barrier whose waiters go on
    SIGNAL = "signal"  # text: USR1 or USR2, for the scripts of the job
    TRIAL = "trial"  # file in run/ with a turn of a check of the network; digest in `text`
    POWER_DOWN = "power_down"  # guests (or all): an orderly shutdown from inside
    QUIT = "quit"  # QEMU ends at once
    KILL = "kill"
    BEAT = "beat"  # the head is still here


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """One order, the same for all hosts. `guests` None means all."""

    kind: OrderKind
    text: str = ""
    mtu: int = 0
    guests: tuple[int, ...] | None = None


class GuestWordKind(StrEnum):
    """What the agent in a guest says."""

    HELLO = "hello"
    STAGE = "stage"
    BARRIER = "barrier"
    READY = "ready"
    JOB_STARTED = "job_started"
    JOB_ENDED = "job_ended"
    FAILED = "failed"
    PONG = "pong"


class GuestWord(msgspec.Struct, frozen=True):
    """One line from a guest. Text is bounded and made printable before anyone sees it."""

    event: GuestWordKind
    protocol: int = 0
    kernel: str = ""
    uptime_s: float = 0.0
    name: str = ""
    text: str = ""
    status: int = 0


class GuestOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line to a guest: `put`, `clock`, `boot`, `release`, `poweroff`, `resize` (only to agents of protocol 2)."""

    op: str
    name: str = ""
    mode: str = ""
    text: str = ""
    unix_s: float = 0.0
    barrier: str = ""
    rows: int = 0
    columns: int = 0


class AttachKind(StrEnum):
    """What a user who comes to a running cluster wants of one host."""

    CONSOLE = "console"  # of a guest: its latest output and all that follows; what he types goes there
    CONNECT = "connect"  # a TCP connection to a port of a guest
    STOP = "stop"  # the whole cluster ends in order


class AttachRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of a user's connection."""

    kind: AttachKind
    guest: int = 0
    port: int = 22


class AttachReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The host's answer, a line; what comes after it depends on the request."""

    error: str = ""


class ConsoleInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line from who looks at a console: bytes that were typed (a character each), or the terminal's new size."""

    typed: str = ""
    rows: int = 0
    columns: int = 0


_encoder = msgspec.json.Encoder()
_event_decoder = msgspec.json.Decoder(Event)
_order_decoder = msgspec.json.Decoder(Order)
_word_decoder = msgspec.json.Decoder(GuestWord)


def encode(message: Order | GuestOrder | AttachRequest | AttachReply | ConsoleInput) -> bytes:
    """Return one line."""
    return _encoder.encode(message) + b"\n"


def encode_event(event: Event) -> bytes:
    """Return one line of at most EVENT_MAX_BYTES; a longer text is cut at its end."""
    line = _encoder.encode(event)
    while len(line) >= EVENT_MAX_BYTES:
        excess = max(len(line) - EVENT_MAX_BYTES, 8)
        event = msgspec.structs.replace(event, text=event.text[: -excess - 1] + "…")
        line = _encoder.encode(event)
    return line + b"\n"


def decode_event(line: bytes) -> Event | None:
    """Return the event of one line, or None when the line is something else (srun's own words, a torn line)."""
    try:
        return _event_decoder.decode(line)
    except msgspec.MsgspecError:
        return None


def decode_order(line: bytes) -> Order | None:
    """Return the order of one line, or None."""
    try:
        return _order_decoder.decode(line)
    except msgspec.MsgspecError:
        return None


def decode_guest_word(line: bytes) -> GuestWord | None:
    """Return what a guest said, its text printable and short, or None when it is not a word we know."""
    if len(line) > GUEST_WORD_MAX_BYTES:
        return None
    try:
        word = _word_decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return msgspec.structs.replace(
        word, name=printable(word.name), text=printable(word.text), kernel=printable(word.kernel)
    )


def decode_attach_request(line: bytes) -> AttachRequest | None:
    """Return what a user asks, or None."""
    try:
        return msgspec.json.decode(line, type=AttachRequest)
    except msgspec.MsgspecError:
        return None


def decode_attach_reply(line: bytes) -> AttachReply:
    """Return the answer of a host; one that is none, or cut off, is an error."""
    try:
        return msgspec.json.decode(line, type=AttachReply)
    except msgspec.MsgspecError:
        return AttachReply(error="the host went away")


def decode_console_input(line: bytes) -> ConsoleInput | None:
    """Return what was typed, or None."""
    try:
        return msgspec.json.decode(line, type=ConsoleInput)
    except msgspec.MsgspecError:
        return None


def printable(text: str, limit: int = 200) -> str:
    """Return `text` on one line, without control characters, cut to `limit` characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])
