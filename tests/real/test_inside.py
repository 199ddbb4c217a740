# SPDX-License-Identifier: Apache-2.0
"""What users find inside guests, as the tutorial shows it: who they are, whose files are whose, their host by ssh,
packages from the network, and their SLURM job.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from realbox import Box

pytestmark = pytest.mark.real

OUT = "203.0.113.2"


@contextmanager
def start_server(box: Box, *command: str, node: str = "login", user: str = "root") -> Iterator[None]:
    """Run a server that says when it is up, until the end of the block."""
    argv = [box.program, "on", node, "--user", user, "--", *command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout
            said = ""
            while "listening" not in said.lower():
                line = server.stdout.readline()
                said += line
                assert line, f"the server did not come up: {said}"
            yield
        finally:
            server.terminate()


def output(box: Box, name: str = "c", stream: str = "out") -> str:
    return (box.folder / name / "out" / f"0_job.{stream}").read_text()


# -- users, files and the host ----------------------------------------------------------------------------------------

LISTINGS = r"""#!/bin/bash
show() { echo "> $*"; "$@" 2>&1; }
show id charlie
cd /ch/data1
show ls -l hello.c shared/plan
umask
show touch a shared/b
show ls -l a shared/b
show chown root:root a
show sudo chown root:root a
cd /ch/tmp
show touch a
show ls -l a
show chown root:root a
show sudo chown root:root a
show ls -l a
show ssh chgu0 umask
show sudo -iu charlie umask
show sudo -i umask
show sudo sh -c 'echo $CH_DATA1'
to_host() { ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR -i "/ch/data1/$1" USER@chgu0host "$2"; }
show to_host key 'hostname; whoami'
show to_host wrong whoami
exit 0
"""

SSHD = """\
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
"""


def test_users_files_and_host_are_as_the_tutorial_shows(box: Box) -> None:
    user, other = pwd.getpwnam(box.user), pwd.getpwnam("chother" if box.user != "chother" else "chuser")
    data = box.folder / "data"
    (data / "shared").mkdir(parents=True)
    for name in ("hello.c", "shared/plan"):
        (data / name).write_text("")
    for name, mode, group in (
        ("", 0o770, user.pw_gid),
        ("hello.c", 0o660, user.pw_gid),
        ("shared", 0o2770, other.pw_gid),
        ("shared/plan", 0o640, other.pw_gid),
    ):
        os.chown(data / name, user.pw_uid, group)
        (data / name).chmod(mode)
    for name in ("key", "wrong", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", data / name], check=True)
        os.chown(data / name, user.pw_uid, user.pw_gid)
    shutil.copy(data / "key.pub", data / "authorized_keys")
    box.write("sshd_config", SSHD.format(folder=data))
    script = box.write("job.sh", LISTINGS.replace("USER", box.user))

    sshd = f"mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -De -f {box.folder}/sshd_config"
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", f"--groups={user.pw_gid},{other.pw_gid}"]
    command = [*become, "vcluster", "-n1", "--ram=512M", "--jobdir=c", "--dir=data", f"--job={script}", box.image]
    with start_server(box, "unshare", "--mount", "sh", "-c", sshd):
        done = box(*command, user="root")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of this host only ssh" in done.stdout

    uid, mine, theirs = user.pw_uid, user.pw_gid, other.pw_gid
    groups = ",".join(f"{gid}({name})" for gid, name in sorted({mine: user.pw_name, theirs: other.pw_name}.items()))
    refused = "chown: changing ownership of 'a': Operation not permitted"
    short = re.sub(r"^([-rwxs]{10}) 1 (\S+) (\S+) +\d+ \S+ +\S+ +\S+ ", r"\1 \2 \3 ", output(box), flags=re.M)
    assert short.splitlines() == [
        "> id charlie",
        f"uid={uid}(charlie) gid=65530(charlie) groups=65530(charlie),{groups}",
        "> ls -l hello.c shared/plan",
        f"-rw-rw---- charlie {user.pw_name} hello.c",
        f"-rw-r----- charlie {other.pw_name} shared/plan",
        "0007",
        "> touch a shared/b",
        "> ls -l a shared/b",
        f"-rw-rw---- charlie {user.pw_name} a",
        f"-rw-rw---- charlie {other.pw_name} shared/b",
        "> chown root:root a",
        refused,
        "> sudo chown root:root a",
        refused,
        "> touch a",
        "> ls -l a",
        "-rw-rw---- charlie charlie a",
        "> chown root:root a",
        refused,
        "> sudo chown root:root a",
        "> ls -l a",
        "-rw-rw---- root root a",
        "> ssh chgu0 umask",
        "0007",
        "> sudo -iu charlie umask",
        "0007",
        "> sudo -i umask",
        "0022",
        "> sudo sh -c echo $CH_DATA1",
        "/ch/data1",
        "> to_host key hostname; whoami",
        "login",
        box.user,
        "> to_host wrong whoami",
        f"{box.user}@chgu0host: Permission denied (publickey).",
    ]


# -- software ---------------------------------------------------------------------------------------------------------

CONTROL = """\
Package: {name}
Version: 1
Architecture: all
Maintainer: nobody <nobody@localhost>
Description: says hello
"""

MAN_PAGE = """\
.TH GREET 1
.SH NAME
greet \\- says hello
.SH DESCRIPTION
Greets whoever asks for it.
"""

# A name server for which every name is the outside, on the loopback of the host, as systemd-resolved is.
NAMES = f"""
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))
print("listening", flush=True)
while True:
    query, client = server.recvfrom(600)
    end = query.index(0, 12) + 5
    found = query[end - 4 : end - 2] == bytes((0, 1))
    head = query[:2] + bytes((0x81, 0x80, 0, 1, 0, found, 0, 0, 0, 0)) + query[12:end]
    record = bytes((0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)) + socket.inet_aton("{OUT}")
    server.sendto(head + record * found, client)
"""

# A server of packages, and a proxy that has the same to offer; which of them was asked is written down.
PACKAGES = f"""
import http.server, re, sys, threading
class Handler(http.server.SimpleHTTPRequestHandler):
    def translate_path(self, path):
        return super().translate_path(re.sub("^http://[^/]*", "", path))
    def log_message(self, form, *words):
        with open("asked", "a") as log:
            print(self.server.server_port, self.requestline, file=log)
for port in (8000, 3128):
    server = http.server.ThreadingHTTPServer(("{OUT}", port), Handler)
    threading.Thread(target=server.serve_forever).start()
print("listening", flush=True)
"""

INSTALL = f"""#!/bin/bash
exec 2>&1
sudo rm /etc/apt/sources.list.d/*
echo "deb [trusted=yes] http://packages.test:8000 ./" | sudo tee /etc/apt/sources.list.d/test.list >/dev/null
sudo apt-get -qy install greet
env -u http_proxy sudo apt-get -qy install greet-more
greet && greet-more
man greet | grep -A1 DESCRIPTION
ping -c1 -w5 {OUT} | grep -o ' 0% packet loss'
ping -c1 -w5 packages.test | grep -o ' 0% packet loss'
ping -c1 -w5 chgu0host | grep -o ' 0% packet loss'
"""


def make_packages(folder: Path) -> None:
    """Make a repository as plain as apt allows: packages beside their list."""
    entries = []
    for name in ("greet", "greet-more"):
        tree = folder / f"{name}.tree"
        files = {
            "DEBIAN/control": CONTROL.format(name=name),
            f"usr/bin/{name}": f"#!/bin/sh\necho hello from {name}\n",
            f"usr/share/man/man1/{name}.1": MAN_PAGE,
        }
        for path, text in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
            (tree / path).chmod(0o755 if path.startswith("usr/bin") else 0o644)
        package = folder / f"{name}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, package], check=True)
        data = package.read_bytes()
        what = f"Filename: ./{package.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        entries.append(CONTROL.format(name=name) + what)
    (folder / "Packages").write_text("\n".join(entries))


@pytest.mark.long  # the tutorial installs one
def test_packages_are_installed_over_the_network_and_through_a_proxy(box: Box) -> None:
    user = pwd.getpwnam(box.user)
    make_packages(box.folder)
    script = box.write("job.sh", INSTALL)
    resolv = box.write("resolv.conf", "nameserver 127.0.0.53\n", 0o644)
    become = f"setpriv --reuid={user.pw_uid} --regid={user.pw_gid} --clear-groups"
    cluster = f"vcluster -n1 --ram=512M --jobdir=c --job={script} {box.image}"
    with (
        start_server(box, "env", "-C", str(box.folder), "python3", "-c", PACKAGES, node="out", user=box.user),
        start_server(box, "python3", "-c", NAMES),
    ):
        enter = f"mount --bind {resolv} /etc/resolv.conf && exec env http_proxy=http://{OUT}:3128 {become} {cluster}"
        done = box("unshare", "--mount", "sh", "-c", enter, user="root")
    assert done.returncode == 0, output(box) + done.stdout + done.stderr
    said = output(box).splitlines()
    assert said[-7:] == [
        "hello from greet",
        "hello from greet-more",
        "DESCRIPTION",
        "       Greets whoever asks for it.",
        *[" 0% packet loss"] * 3,
    ], "\n".join(said)
    asked = (box.folder / "asked").read_text()
    assert "3128 GET http://packages.test:8000/./greet.deb" in asked, "sudo lost the proxy of the user"
    assert "8000 GET /./greet-more.deb" in asked
    assert "8000 GET /./greet.deb" not in asked


# -- the SLURM job ----------------------------------------------------------------------------------------------------

TASK = """#!/bin/bash
printf '<%s>' "$@"
echo
env | grep ^SLURM_ARRAY_ | sort
sudo env | grep -c ^SLURM_ARRAY_
echo "$SLURM_JOB_NAME"
env | grep -e NODELIST -e SLURM_JOBID
exit 0
"""


@pytest.mark.long
def test_each_task_of_an_array_knows_which_it_is(box: Box) -> None:
    script = box.write("task.sh", TASK)
    batch = box.write(
        "array.sbatch",
        "#!/bin/bash\n#SBATCH --array=1-2 --job-name=sweep --output=batch-%a.out\n"
        f"n=$SLURM_ARRAY_TASK_ID; exec chrun --jobdir c$n --job {script} {box.image} -- -x \"task $n\" ''\n",
    )
    done = box("sbatch", "--parsable", "--wait", batch)
    logs = "".join(path.read_text() for path in box.folder.glob("batch-*.out"))
    assert done.returncode == 0, done.stderr + logs
    job = done.stdout.strip()
    for task in ("1", "2"):
        assert output(box, f"c{task}").splitlines() == [
            f"<-x><task {task}><>",
            f"SLURM_ARRAY_JOB_ID={job}",
            "SLURM_ARRAY_TASK_COUNT=2",
            f"SLURM_ARRAY_TASK_ID={task}",
            "SLURM_ARRAY_TASK_MAX=2",
            "SLURM_ARRAY_TASK_MIN=1",
            "SLURM_ARRAY_TASK_STEP=1",
            "6",
            "sweep",
        ], logs
