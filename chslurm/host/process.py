# SPDX-License-Identifier: Apache-2.0
"""The only place that starts processes.

Argument lists only, never a shell; stdin is /dev/null unless said otherwise; the locale is C.UTF-8 so that what a
program prints can be parsed. What goes wrong is told with the command line, the exit status and its last words.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, NoReturn

from chslurm.errors import ProcessError

Argv = Sequence[str | PurePath]
FileTarget = int | IO[bytes] | None

_TICK_S = 0.2
_OUTPUT_MAX = 16 << 20

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished program left behind."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


def run(
    argv: Argv,
    *,
    input_text: str | None = None,
    timeout_s: float = 60.0,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    die_with_parent: bool = False,
) -> Completed:
    """Run a program to its end and return what it printed.

    `env` adds to the environment; for `die_with_parent` see `spawn`. Raises ProcessError when it cannot be started,
    runs longer than `timeout_s` or, with `check`, ends with a status other than 0.
    """
    words = tuple(os.fspath(word) for word in argv)
    try:
        done = subprocess.run(
            words,
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=_environment(env),
            pass_fds=pass_fds,
            start_new_session=die_with_parent,
            preexec_fn=_tie(os.getpid()) if die_with_parent else None,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProcessError(f"can't finish {words[0]}: still running after {timeout_s:g} s: {_shown(words)}") from error
    except OSError as error:
        raise _cannot_start(words, error) from error
    if check and done.returncode != 0:
        how = f"{describe_exit(done.returncode)}: {_tail(done.stderr)}"
        raise ProcessError(f"can't run {words[0]}: {how}: {_shown(words)}")
    return Completed(words, done.returncode, done.stdout, done.stderr)


def spawn(
    argv: Argv,
    *,
    stdin: FileTarget = subprocess.DEVNULL,
    stdout: FileTarget = None,
    stderr: FileTarget = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    die_with_parent: bool = True,
    death_signal: signal.Signals = signal.SIGKILL,
    own_session: bool = True,
    deaf_to: Sequence[signal.Signals] = (),
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that Ctrl-C at the terminal reaches us and not it.

    Without `own_session` it shares our terminal. An `stdin` of None is ours.
    Signals that it is `deaf_to` are blocked for it, whatever handlers it sets.
    With `die_with_parent` the kernel sends it `death_signal` when the thread that started it ends: call from the main
    thread only.
    Raises ProcessError when it cannot be started.
    """
    words = tuple(os.fspath(word) for word in argv)
    try:
        return subprocess.Popen(
            words,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=_environment(env),
            pass_fds=pass_fds,
            start_new_session=own_session,
            preexec_fn=_tie(os.getpid(), death_signal, deaf_to) if die_with_parent else None,
        )
    except OSError as error:
        raise _cannot_start(words, error) from error


def watch(argv: Argv, tick: Callable[[], None], *, pass_fds: Sequence[int] = (), check: bool = True) -> Completed:
    """Run a program that may take long, and call `tick` a few times a second; what that raises ends the program.

    Raises ProcessError when it cannot be started or, with `check`, ends with a status other than 0.
    """
    words = tuple(os.fspath(word) for word in argv)
    with _memory_file("output") as output, _memory_file("errors") as errors:
        process = spawn(words, stdout=output, stderr=errors, pass_fds=pass_fds)
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK_S)
                tick()
        finally:
            process.kill()
            status = process.wait()
        texts = [os.pread(file.fileno(), _OUTPUT_MAX, 0).decode(errors="replace") for file in (output, errors)]
    if check and status:
        raise ProcessError(f"{words[0]}: {describe_exit(status)}: {_tail(texts[1], lines=1)}")
    return Completed(words, status, *texts)


def replace_process(argv: Argv) -> NoReturn:
    """Become another program, with our standard streams. Raises ProcessError when it can't be started."""
    words = tuple(os.fspath(word) for word in argv)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        raise _cannot_start(words, error) from error


def make_own_argv(module: str, *words: str) -> list[str]:
    """Return the command that runs a module of this very installation, here or on another node, whatever is upgraded.

    Nothing is imported from the current directory; and from where PYTHONPATH says only if we were, too.
    """
    return [sys.executable, "-I" if sys.flags.isolated else "-P", "-m", module, *words]


def describe_exit(status: int) -> str:
    """Return 'exit status 3' or 'killed by SIGKILL' for a status as subprocess gives it (negative: a signal)."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _tie(
    parent: int, death_signal: signal.Signals = signal.SIGKILL, deaf_to: Sequence[signal.Signals] = ()
) -> Callable[[], None]:
    """Return what a child does to end when `parent` does, and not to hear some signals."""

    def tie() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, deaf_to)
        die_with(parent, death_signal)

    return tie


def die_with(parent: int, death_signal: signal.Signals = signal.SIGKILL) -> None:
    """End when `parent` does, which has forked us."""
    _libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the tie was made
        os.kill(os.getpid(), signal.SIGKILL)


def _memory_file(name: str) -> IO[bytes]:
    return open(os.memfd_create(f"chslurm-{name}", os.MFD_CLOEXEC), "w+b")


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # Programs that make file systems lie in sbin, which ordinary users do not have on their PATH.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", **(extra or {})}


def _cannot_start(words: tuple[str, ...], error: OSError) -> ProcessError:
    hint = "install it, or put it on PATH" if isinstance(error, FileNotFoundError) else ""
    return ProcessError(f"can't start {words[0]}: {error.strerror}", hint=hint)


def _shown(words: tuple[str, ...], limit: int = 300) -> str:
    """A command line as it could be typed, cut short: what went wrong stands before it."""
    line = shlex.join(words)
    return line if len(line) <= limit else f"{line[:limit]}..."


def _tail(text: str, lines: int = 3) -> str:
    """The last words of a program, on one line."""
    return " | ".join(text.strip().splitlines()[-lines:]) or "it said nothing"
