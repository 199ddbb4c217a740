# SPDX-License-Identifier: Apache-2.0
"""The network that root makes on a workstation: made, looked at and removed. What it is says `site`.

Before anything is made it is written down what that will be, and how the host was. So whatever a start that was killed
has left is found, by its fixed names, and removed. A start that fails removes what it has made. That all rules are the
ones that were loaded is told by a digest of what the kernel says they are.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePath

import msgspec

from chslurm.errors import ChslurmError, UsageError
from chslurm.host.links import has_link, read_addresses, read_links
from chslurm.host.process import run
from chslurm.host.rootfiles import (
    forget_environment,
    lock_state,
    read_root_file,
    read_state,
    remove_state,
    write_state,
)
from chslurm.host.rules import NFT_TIMEOUT_S, digest_own_rules, find_closed_chains, read_own_tables
from chslurm.host.sysctls import write_sysctls
from chslurm.network import Tool
from chslurm.site import (
    BRIDGE,
    Settings,
    Site,
    SiteStep,
    check_addresses,
    find_faults,
    find_own_links,
    find_slot,
    make_forwarding_key,
    make_link_removal,
    make_rule_removal,
    make_steps,
    parse_settings,
)

Say = Callable[[str], None]

_STATE = "workstation.json"
_SYSCTL = Path("/proc/sys")
_IP_TIMEOUT_S = 30.0  # the kernel takes 20 ms to delete a link
_ARGV = {Tool.IP: ("ip", "-batch", "-"), Tool.NFT: ("nft", "-f", "-")}


class Condition(StrEnum):
    """How the network is."""

    UP = "up"
    DOWN = "down"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered. Without a digest, a start was under way."""

    site: Site
    digest: str = ""


def read_site(config: PurePath) -> Site:
    """Return the network that a file of settings asks for, on this host. Raises UsageError."""
    settings = parse_settings(read_root_file(config), str(config))
    link = settings.forward_to
    if not has_link(link):
        raise UsageError(f"{config}: FWD_IFACE {link}: no such interface", hint="ip link lists them")
    return Site(_find_owner(settings, config), link, settings.tap_ct, guarded=not _forwards(link))


def start_network(site: Site, say: Say) -> None:
    """Make the network, unless it is there; make it anew when it is damaged. Raises ChslurmError, nothing is left."""
    _be_root()
    with lock_state() as folder:
        state = _read(folder)
        if state and not _look(state):
            same = replace(site, guarded=state.site.guarded) == state.site
            say(_describe(state.site) + ("" if same else "; restart takes on its new settings"))
            return
        _remove(folder, state)
        _make(folder, site, say)


def stop_network(say: Say) -> None:
    """Remove whatever there is of the network. Raises ChslurmError when something can't be removed."""
    _be_root()
    with lock_state() as folder:
        _warn_of_users(say)
        _remove(folder, _read(folder))
    say("down")


def restart_network(site: Site, say: Say) -> None:
    """Remove the network and make it anew. Raises ChslurmError."""
    _be_root()
    with lock_state() as folder:
        _warn_of_users(say)
        _remove(folder, _read(folder))
        _make(folder, site, say)


def read_condition(say: Say) -> Condition:
    """Return how the network is, and say it in words. Raises ChslurmError when that can't be told."""
    _be_root()
    with lock_state() as folder:
        state = _read(folder)
        links = read_links()
        if state is None and not find_own_links(links) and not read_own_tables():
            say("down")
            return Condition.DOWN
        faults = _look(state) if state else ["something is left of it, but not how it was made"]
    for fault in faults:
        say(fault)
    if faults or state is None:
        say("broken: start repairs it, stop removes it")
        return Condition.BROKEN
    say(_describe(state.site))
    used = [guest.tap for guest in state.site.guests if links[guest.tap].carrier]
    say(f"in use by guests: {', '.join(used) or 'none'}")
    _warn_of_others(say)
    return Condition.UP


def _make(folder: Path, wanted: Site, say: Say) -> None:
    check_addresses(read_addresses())
    site = replace(wanted, guarded=not _forwards(wanted.forward_to))  # now that nothing of ours is there
    write_state(folder, _STATE, _encode(State(site)))
    try:
        for step in make_steps(site):
            _do(step)
        if faults := _find_link_faults(site):
            raise ChslurmError(f"can't make the network: {faults[0]}", hint="something else changes links here")
        write_state(folder, _STATE, _encode(State(site, digest_own_rules())))
    except BaseException as error:
        try:
            _remove(folder, State(site))
        except ChslurmError as second:
            raise ChslurmError(f"{error}; nor can what was made be removed: {second}") from error
        raise
    say(_describe(site))
    _warn_of_others(say)


def _remove(folder: Path, state: State | None) -> None:
    """Remove what is found, whoever made it; of the host's own settings only what we have changed is set back.

    Links go first, and do not wait for an nft that hangs.
    """
    unforward = state.site.forward_to if state and state.site.guarded and _forwards(state.site.forward_to) else ""
    if _read_sysctl("net/ipv4/ip_forward") == "1":  # somebody else has, since, let all links forward
        unforward = ""
    for step in make_link_removal(find_own_links(read_links()), unforward):
        _do(step)
    _do(make_rule_removal(read_own_tables()))
    remove_state(folder, _STATE)


def _do(step: SiteStep) -> None:
    if not step.text:
        return
    try:
        if step.tool is Tool.SYSCTL:
            write_sysctls(step.text)
        else:
            timeout_s = NFT_TIMEOUT_S if step.tool is Tool.NFT else _IP_TIMEOUT_S
            run(_ARGV[step.tool], input_text=step.text, timeout_s=timeout_s)
    except (ChslurmError, OSError) as error:
        raise ChslurmError(f"can't do the step {step.what!r}: {error}") from error


def _look(state: State) -> list[str]:
    """Return what is not as it was made."""
    if not state.digest:
        return ["a start did not come to its end"]
    faults = _find_link_faults(state.site)
    faults += [f"{link} does not forward" for link in (state.site.forward_to, BRIDGE) if not _forwards(link)]
    if digest_own_rules() != state.digest:
        faults.append("the filters are not those that were loaded")
    return faults


def _find_link_faults(site: Site) -> list[str]:
    owners = (_render_user(site.owner_uid), str(site.owner_uid))
    return find_faults(site, read_links(), owners, read_addresses().get(BRIDGE, ()))


def _describe(site: Site) -> str:
    owner = _render_user(site.owner_uid)
    return f"up: {BRIDGE} with {site.tap_ct} TAPs of {owner}, NAT to {site.forward_to}"


def _find_owner(settings: Settings, config: PurePath) -> int:
    name = settings.tap_owner
    try:
        uid = pwd.getpwuid(int(name)).pw_uid if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except (KeyError, OverflowError):
        raise UsageError(f"{config}: TAP_OWNER {name}: no such user", hint="see getent passwd") from None
    if uid == 0:
        raise UsageError(f"{config}: TAP_OWNER {name}: root", hint="name the user whose guests these are")
    return uid


# -- small things -----------------------------------------------------------------------------------------------------


def _be_root() -> None:
    if os.geteuid():
        raise ChslurmError("can't change or look at the host's network: not root", hint="use sudo")
    forget_environment()
    for program in ("ip", "nft"):
        if not shutil.which(program):
            raise ChslurmError(f"can't find {program}", hint="install iproute2 and nftables")


def _warn_of_users(say: Say) -> None:
    if used := [name for name, link in read_links().items() if find_slot(name) and link.carrier]:
        say(f"guests at {', '.join(used)} lose their network, and their clusters end")


def _warn_of_others(say: Say) -> None:
    for chain in find_closed_chains():
        say(f"note: chain {chain} drops what it does not know: let it accept what comes from or goes to {BRIDGE}")


def _forwards(link: str) -> bool:
    return _read_sysctl(make_forwarding_key(link)) == "1"


def _read_sysctl(key: str) -> str:
    try:
        return (_SYSCTL / key).read_text().strip()
    except OSError:
        return ""


def _render_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read(folder: Path) -> State | None:
    data = read_state(folder, _STATE)
    try:
        return None if data is None else msgspec.json.decode(data, type=State)
    except msgspec.MsgspecError:  # of another version, or cut short: what there is is found by its names
        return None


def _encode(state: State) -> bytes:
    return msgspec.json.encode(state) + b"\n"
