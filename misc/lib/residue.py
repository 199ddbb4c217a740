# SPDX-License-Identifier: Apache-2.0
"""Find what tests and users of slurm-box left behind: compare the machine with a snapshot of it.

Usage: residue.py snapshot|compare BOX USER...
       residue.py compare-user BOX USER      only what is USER's, while others use the box

A snapshot is a JSON object, key -> text for people, with one entry for each thing there is. What has a key that the
snapshot lacks is a left-over.
"""

import fcntl
import json
import os
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

Things = Iterator[tuple[str, str]]  # key, text for people

SETTLE_S = 2.0  # the kernel takes namespaces apart in the background
POLL_S = 0.2
LINE_LENGTH = 200
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run")
SOCKET_TABLES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
TCP_LISTEN = "0A"
NS_GET_USERNS = 0xB701  # linux/nsfs.h
NS_GET_OWNER_UID = 0xB704


def find_processes(users: dict[int, str]) -> Things:
    """All processes with any of the users' ids, save zombies and the ancestors of this one."""
    ancestors = set(iterate_ancestors())
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
            command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            start = (proc / "stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            continue  # it has just ended
        owner = next((users[uid] for uid in map(int, status["Uid"].split()) if uid in users), None)
        if owner and status["State"][0] not in "ZX" and int(proc.name) not in ancestors:
            yield f"process {proc.name} {start}", f"process {proc.name} of {owner}: {command or status['Name']}"


def iterate_ancestors() -> Iterator[int]:
    """The ids of this process, its parent and so on."""
    pid = os.getpid()
    while pid:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def find_namespaces(users: dict[int, str], box: Path, *, theirs: bool) -> Things:
    """Network and user namespaces that belong to the users, or hold a process of the box, and all that have a name.

    When only what is `theirs` counts: the first.
    """
    names = [] if theirs else Path("/run/netns").glob("*")
    for name in names:
        yield f"netns {name.name}", f"network namespace /run/netns/{name.name}"
    inside = set() if theirs else {file.stat().st_ino for file in box.glob("ns/*")}
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            is_inside = any((proc / "ns" / kind).stat().st_ino in inside for kind in ("mnt", "uts"))
            for kind in ("net", "user"):
                file = proc / "ns" / kind
                if is_inside or read_owner(file) in users:
                    yield f"namespace {file.stat().st_ino}", f"{kind} namespace of process {proc.name}"
        except OSError:
            continue


def read_owner(namespace: Path) -> int:
    """The user id that made the namespace, or the user namespace that owns it."""
    file = os.open(namespace, os.O_RDONLY)
    try:
        if namespace.name != "user":
            owner = fcntl.ioctl(file, NS_GET_USERNS)
            os.close(file)
            file = owner
        return int.from_bytes(fcntl.ioctl(file, NS_GET_OWNER_UID, bytes(4)), sys.byteorder)
    finally:
        os.close(file)


def find_files(users: dict[int, str], box: Path) -> Things:
    """Files of the users in the temporary folders; of a tree only its top."""
    pending = [folder for folder in TEMPORARY if not os.path.islink(folder)]
    homes = {pwd.getpwuid(uid).pw_dir for uid in users}
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                owner = users.get(entry.stat(follow_symlinks=False).st_uid)
            except OSError:
                continue
            if owner and entry.path not in homes:
                yield f"file {entry.path}", f"file {entry.path} of {owner}"
            elif entry.is_dir(follow_symlinks=False) and entry.path not in homes | {str(box)}:
                pending.append(entry.path)


def find_in_node(node: str, box: Path, users: dict[int, str], *, theirs: bool) -> Things:
    """Links, mounts, nft tables and sockets of one node; of this machine when `node` is empty."""
    entry = [
        "nsenter", f"--net=/run/netns/chbox-{node}", f"--mount={box}/ns/{node}.mnt", "--"
    ] if node else []  # fmt: skip
    files = ["mounts", *(f"net/{table}" for table in ("dev", "unix", *SOCKET_TABLES))]
    show = ["tail", "--verbose", "--lines=+1", *(f"/proc/self/{file}" for file in files)]
    if not theirs:
        show = ["sh", "-c", 'echo "==> nft <=="; nft -s list ruleset; echo; exec "$@"', "sh", *show]
    shown = subprocess.run([*entry, *show], capture_output=True, text=True, errors="replace", check=False)
    parts = ("\n" + shown.stdout).split("\n==> ")[1:]
    sections = {
        name.removeprefix("/proc/self/"): text for name, _, text in (part.partition(" <==\n") for part in parts)
    }
    where = f" on {node}" if node else ""
    things = dict(read_sockets(sections, box, None if node and not theirs else users))
    if not theirs:
        things |= read_roots(sections, box)
    for key, text in things.items():
        yield f"{node} {key}", text + where


def read_roots(sections: dict[str, str], box: Path) -> Things:
    """What only root can make on a node: links, mounts, tables of nft."""
    for line in sections["net/dev"].splitlines()[2:]:
        link = line.split(":", 1)[0].strip()
        yield f"link {link}", f"link {link}"
    for line in filter(None, sections["mounts"].splitlines()):
        source, target, kind = line.split()[:3]
        if not target.startswith((f"{box}/", "/run/netns/chbox-")):
            yield f"mount {source} {target}", f"mount of {kind} {source} at {target}"
    for table in re.split(r"^(?=table )", sections["nft"], flags=re.MULTILINE):
        if table.strip():
            yield f"nft {table}", f"nft {table.splitlines()[0].rstrip(' {')}"


def read_sockets(sections: dict[str, str], box: Path, users: dict[int, str] | None) -> Things:
    """Sockets of one node. Those of others than the users count only when `users` is None."""
    for name in SOCKET_TABLES:
        for line in sections[f"net/{name}"].splitlines()[1:]:
            local, state, uid = (line.split()[field] for field in (1, 3, 7))
            if (users is None or int(uid) in users) and (state == TCP_LISTEN or not name.startswith("tcp")):
                port = int(local.rpartition(":")[2], 16)
                yield f"socket {name} {local} {uid}", f"{name} socket of user id {uid} at port {port}"
    if users is None:
        for line in sections["net/unix"].splitlines()[1:]:
            path = line.split(maxsplit=7)[7:]
            if path and not path[0].startswith(str(box)):
                yield f"unix {path[0]}", f"unix socket {path[0]}"


def find_all(users: dict[int, str], box: Path, *, theirs: bool = False) -> dict[str, str]:
    """Everything there is now; only what certainly belongs to the users when only what is `theirs` counts."""
    things = {**dict(find_processes(users)), **dict(find_files(users, box))}
    things |= find_namespaces(users, box, theirs=theirs)
    for node in ["", *sorted(file.stem for file in box.glob("ns/*.mnt"))]:
        things |= find_in_node(node, box, users, theirs=theirs)
    return things


def find_left_overs(users: dict[int, str], box: Path, before: dict[str, str], *, theirs: bool) -> list[str]:
    """The texts of what is there now and was not before, after giving the kernel time to settle."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        left = sorted(text for key, text in find_all(users, box, theirs=theirs).items() if key not in before)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)


def main() -> int:
    """Do what the command line says; 1 when something is left."""
    command, box, *names = sys.argv[1:]
    users = {pwd.getpwnam(name).pw_uid: name for name in names}
    snapshot = Path(box, "snapshot.json")
    if command == "snapshot":
        snapshot.write_text(json.dumps(find_all(users, Path(box))))
        return 0
    left = find_left_overs(users, Path(box), json.loads(snapshot.read_text()), theirs=command == "compare-user")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # names of files are any bytes
    print("\n".join(" ".join(text.split())[:LINE_LENGTH] for text in left) or "nothing is left")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
