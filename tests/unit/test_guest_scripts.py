# SPDX-License-Identifier: Apache-2.0
"""The boot scripts of guest/, run by the real shell against a folder that stands for a guest's root.

What needs root or a guest is a fake command that logs its arguments; an unknown call of it fails.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from calendar import timegm
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PROJECT = Path(__file__).parents[2]
LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d): (.*)")
UID, CHARLIE_GID = 1001, 65530

PASSWD = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\ncharlie:x:65530:65530:,:/home/charlie:/bin/bash\n"
GROUP = "root:x:0:\nsudo:x:27:charlie\nstaff:x:50:\njournal:x:999:root\ncharlie:x:65530:\nnogroup:x:65534:\n"

FAKES = {
    "chguest": """
        case $1 in
            barrier) case $2 in
                chslurm.signal.*)
                    until [ -e "$CH_ROOT/released/$2" ]; do
                        [ -e "$CH_ROOT/run/chslurm/job.pid" ] && sleep 0.05 || exit
                    done ;;
            esac ;;
            stage | ready | job-started | job-ended | failed) ;;
            port) echo "$CH_ROOT/$2" ;;
            *) exit 99 ;;
        esac""",
    "chown": '[ "$1" = -h ] || exit 99',
    "swapon": '[ "$*" = /dev/vdb1 ]',
    "mount": """
        [ "$*" = "-a -T $CH_ROOT/run/chslurm/fstab" ] || exit 99
        [ -z "$BROKEN" ] || { echo "mount: $BROKEN: bad" >&2; exit 32; }""",
    "ip": '[ "$*" = "-batch -" ] && cat >"$CH_ROOT/ip-batch"',
    "systemctl": """
        case "$*" in
            "--no-block start "*getty@*.service | "--no-block start chslurm-job.service") ;;
            *) exit 99 ;;
        esac""",
    "modprobe": '[ "$*" = "-q bochs" ] && [ -z "$BROKEN" ]',
    "setpriv": 'while [ "${1#--}" != "$1" ]; do case $1 in --re?id) shift ;; esac; shift; done; exec "$@"',
}


@dataclass(frozen=True, slots=True)
class FakeGuest:
    """A folder with what a guest's scripts read and write."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run/chslurm"

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def boot(self, *scripts: str, broken: str = "") -> subprocess.CompletedProcess[str]:
        """Run boot.sh with these numbered scripts (all of them by default) and everything they start."""
        tools = self.root / "opt"
        shutil.rmtree(tools, ignore_errors=True)
        shutil.rmtree(self.run / "user", ignore_errors=True)  # /run is new on every boot
        tools.mkdir()
        for path in (PROJECT / "guest").glob("*.sh"):
            if not scripts or not path.name[0].isdigit() or path.name in scripts:
                shutil.copy(path, tools)
        return self.boot_as_it_is(broken=broken)

    def boot_as_it_is(self, broken: str = "") -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "HOME": str(self.root),
            "CH_ROOT": str(self.root),
            "BROKEN": broken,
        }
        argv = ["sh", f"{self.root}/opt/boot.sh"]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)

    def calls(self) -> list[str]:
        """Return what the fake commands were asked, a line each."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if "chslurm.signal" not in line]  # asked beside the rest, at any moment

    def groups(self) -> list[tuple[str, str, list[str]]]:
        """Return name, gid and members of each line of /etc/group."""
        rows = [line.split(":") for line in (self.root / "etc/group").read_text().split("\n")[:-1]]
        return [(name, gid, members.split(",") if members else []) for name, _, gid, members in rows]


def make_guest(
    root: Path, *, interactive: bool = False, sync: bool = True, vga: bool = False, guest_id: int = 0
) -> FakeGuest:
    guest = FakeGuest(root)
    identity = {
        "CH_GUEST_ID": guest_id, "CH_GUEST_NAME": f"chgu{guest_id}", "CH_GUEST_MAC": "02:00:ac:16:01:01",
        "CH_GUEST_IP": "172.22.1.1", "CH_GUEST_PREFIX": 24, "CH_GATEWAY_IP": "172.22.1.254", "CH_MTU": 1400,
        "CH_UID": UID, "CH_INTERACTIVE": int(interactive), "CH_SYNC": int(sync),
        "CH_VGA": int(vga),
    }  # fmt: skip
    guest.write("run/chslurm/identity.sh", "".join(f"{name}='{value}'\n" for name, value in identity.items()))
    guest.write("run/chslurm/environment.sh", f"export CH_META='{root}/ch/meta'\nexport CH_ODD='a'\\''b'\n")
    for name in ("run/chslurm/jobargs", "run/chslurm/groups", "run/chslurm/id_ed25519", "run/chslurm/id_ed25519.pub"):
        guest.write(name, "")
    guest.write("run/chslurm/shares", "data1 rw\ndata2 ro\n")
    guest.write("etc/passwd", PASSWD)
    guest.write("etc/group", GROUP)
    for name in ("ch/tmp", "ch/meta/sync", "proc/sys/kernel", "home/charlie"):
        (root / name).mkdir(parents=True)
    for name, body in FAKES.items():
        guest.write(f"bin/{name}", f'#!/bin/sh\necho "{name} $*" >>"$CH_ROOT/calls"\n{body}\n')
        (root / "bin" / name).chmod(0o755)
    return guest


@pytest.fixture
def guest(tmp_path: Path) -> FakeGuest:
    return make_guest(tmp_path)


def texts(console: str) -> list[str]:
    """Return the log lines of a console without their times."""
    return [match[2] for line in console.splitlines() if (match := LOG_LINE.fullmatch(line))]


def test_the_scripts_pass_shellcheck() -> None:
    folders = ("guest", "examples/*", "sbatch-templates")
    scripts = [str(path) for folder in folders for path in PROJECT.glob(f"{folder}/*.sh")]
    argv = ["shellcheck", "-x", "-P", "SCRIPTDIR", *scripts]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


# -- boot.sh ----------------------------------------------------------------------------------------------------------


def test_boot_runs_the_numbered_scripts_in_order_and_logs_each(guest: FakeGuest) -> None:
    guest.boot("no numbered script")
    for number in (99, 10, 80):
        guest.write(f"opt/{number}-x.sh", f'echo "here is {number}, guest $CH_GUEST_ID"\n')
    guest.write("opt/extra.sh", "exit 5\n")

    console = guest.boot_as_it_is().stdout.splitlines()

    words = [f"running {n}-x.sh|here is {n}, guest 0|{n}-x.sh done in N seconds" for n in (10, 80, 99)]
    got = [re.sub(r"in \d+ s", "in N s", re.sub(r"^\S+T\S+: ", "", line)) for line in console]
    assert got == [*"|".join(words).split("|"), "boot.sh done in N seconds"]


def test_log_lines_carry_the_time_in_utc(guest: FakeGuest) -> None:
    match = LOG_LINE.match(guest.boot("80-sync.sh").stdout)
    assert match
    assert abs(timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S")) - time.time()) < 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("fail 'the moon is down'\n", "the moon is down"),
        ("false\necho not reached\n", "ended with status 1"),
        ("exit 3\n", "ended with status 3"),
        (": $NO_SUCH_VARIABLE\n", "ended with status 2"),
    ],
)
def test_the_first_script_that_fails_ends_the_boot_and_the_host_learns_why(
    guest: FakeGuest, body: str, reason: str
) -> None:
    guest.boot("no numbered script")
    guest.write("opt/10-x.sh", body)
    guest.write("opt/20-x.sh", "echo not reached\n")

    result = guest.boot_as_it_is()

    assert result.returncode == 1
    assert texts(result.stdout)[-1] == f"10-x.sh failed: {reason}"
    assert guest.calls()[-1] == f"chguest failed 10-x.sh: {reason}"
    assert "not reached" not in result.stdout


# -- storage and network ----------------------------------------------------------------------------------------------


def test_storage_mounts_what_the_host_gave(guest: FakeGuest) -> None:
    assert guest.boot("10-storage.sh").returncode == 0
    options = "trans=virtio,version=9p2000.L,msize=512000,cache=none"
    assert (guest.run / "fstab").read_text().splitlines() == [
        f"/dev/vdb2 {guest.root}/ch/tmp ext4 defaults",
        f"sync {guest.root}/ch/meta/sync 9p rw,{options}",
        f"data1 {guest.root}/ch/data1 9p rw,{options}",
        f"data2 {guest.root}/ch/data2 9p ro,{options}",
    ]
    assert guest.calls()[1:] == [f"mount -a -T {guest.run}/fstab", "swapon /dev/vdb1"]
    assert (guest.root / "ch/tmp").stat().st_mode & 0o7777 == 0o1777


def test_a_share_that_cannot_be_mounted_is_named(guest: FakeGuest) -> None:
    assert guest.boot("10-storage.sh", "80-sync.sh", broken="/ch/data1").returncode == 1
    assert guest.calls()[-1] == "chguest failed 10-storage.sh: cannot mount /ch/data1: bad"


def test_name_and_network_come_from_the_identity(guest: FakeGuest) -> None:
    guest.write("proc/sys/net/ipv6/conf/all/disable_ipv6", "0")
    assert guest.boot("30-hostname.sh").returncode == 0
    assert (guest.root / "proc/sys/kernel/hostname").read_text() == "chgu0\n"
    assert (guest.root / "proc/sys/net/ipv6/conf/all/disable_ipv6").read_text() == "1\n"
    assert (guest.root / "etc/hosts").readlink() == Path("/ch/meta/hosts")
    assert (guest.root / "ip-batch").read_text().splitlines() == [
        "link set dev lo up",
        "link set dev eth0 address 02:00:ac:16:01:01 mtu 1400",
        "address replace 172.22.1.1/24 dev eth0",
        "link set dev eth0 up",
        "route replace default via 172.22.1.254 dev eth0",
    ]


# -- users and groups -------------------------------------------------------------------------------------------------


def test_charlie_gets_the_uid_and_groups_of_the_host(guest: FakeGuest) -> None:
    guest.write("run/chslurm/groups", "1001:reidpr\n1000:twitter\n2000:domain users\n65530:own\n")

    result = guest.boot("20-users.sh")

    assert result.returncode == 0, result.stdout
    assert (guest.root / "etc/passwd").read_text() == PASSWD.replace("charlie:x:65530", f"charlie:x:{UID}")
    expected = GROUP + "reidpr:x:1001:charlie\ntwitter:x:1000:charlie\ndomain users:x:2000:charlie\n"
    assert (guest.root / "etc/group").read_text() == expected
    groups = "65530(charlie),27(sudo),1001(reidpr),1000(twitter),2000(domain users)"
    assert f"uid=1001(charlie) gid=65530(charlie) groups={groups}" in texts(result.stdout)


@pytest.mark.parametrize(
    ("host", "line", "note"),
    [
        ("999:wheel", "journal:x:999:root,charlie", "group wheel (999) of the host is journal here"),
        ("3000:sudo", "sudo_3000:x:3000:charlie", "group sudo (3000) of the host is sudo_3000 here"),
        ("3000:charlie", "charlie_3000:x:3000:charlie", "group charlie (3000) of the host is charlie_3000 here"),
        ("3000:", "group_3000:x:3000:charlie", None),
        ("3000:a:b\tc", "a_b_c:x:3000:charlie", None),
        ("3000:+nis", "_nis:x:3000:charlie", None),
        ("3000:CORP\\users", "CORP\\users:x:3000:charlie", None),
    ],
)
def test_groups_that_clash_or_have_odd_names(guest: FakeGuest, host: str, line: str, note: str | None) -> None:
    guest.write("run/chslurm/groups", host + "\n")
    result = guest.boot("20-users.sh")
    assert line in (guest.root / "etc/group").read_text().splitlines()
    assert note is None or note in texts(result.stdout)


host_groups = st.dictionaries(
    st.integers(500, 2**32 - 2).filter(lambda gid: gid != CHARLIE_GID),
    st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), max_size=40),
    max_size=20,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=host_groups, second=host_groups)
def test_any_groups_make_a_sound_file_and_the_next_user_inherits_none(
    tmp_path_factory: pytest.TempPathFactory, first: dict[int, str], second: dict[int, str]
) -> None:
    guest = make_guest(tmp_path_factory.mktemp("guest"))
    for groups in (first, second, second):
        guest.write("run/chslurm/groups", "".join(f"{gid}:{name}\n" for gid, name in groups.items()))
        result = guest.boot("20-users.sh")
        assert result.returncode == 0, result.stdout

        rows = guest.groups()
        assert len({name for name, _, _ in rows}) == len({gid for _, gid, _ in rows}) == len(rows)
        assert {gid for _, gid, members in rows if "charlie" in members} == {"27", *map(str, groups)}
        own = [(name, gid) for name, gid, _ in rows[: GROUP.count("\n")]]
        assert own == [tuple(line.split(":")[::2][:2]) for line in GROUP.splitlines()]
        assert len(rows) == len({*map(str, groups), *(gid for _, gid in own)})


def test_a_home_directory_follows_the_uid_only_when_it_changed(guest: FakeGuest) -> None:
    guest.write("etc/passwd", PASSWD.replace("charlie:x:65530", f"charlie:x:{os.getuid()}"))
    guest.write("home/charlie/file", "")
    home = f"{guest.root}/home/charlie"
    key = [f"{guest.run}/user", f"{guest.run}/user/id_ed25519", f"{guest.run}/user/id_ed25519.pub"]
    for_key = " ".join(["chown", "-h", str(UID), *key])

    guest.boot("20-users.sh")
    assert guest.calls()[-2] == for_key
    assert sorted(guest.calls()[-1].split()) == sorted(["chown", "-h", str(UID), home, f"{home}/file"])

    guest.boot("20-users.sh")
    assert guest.calls()[-1] == for_key


def test_a_large_home_directory_tells_how_far_it_is(guest: FakeGuest) -> None:
    guest.write("etc/passwd", PASSWD.replace("charlie:x:65530", f"charlie:x:{os.getuid()}"))
    home = guest.root / "home/charlie" / ("long" * 50)
    home.mkdir()
    for number in range(3000):
        (home / f"{number}{'x' * 200}").touch()

    assert guest.boot("20-users.sh").returncode == 0

    calls = guest.calls()
    stages = [call.split(".")[1] for call in calls if call.startswith("chguest stage 20-users.")]
    done = [int(stage.removesuffix("-files")) for stage in stages]
    assert len(done) == 1  # at once; the next would come 5 s later
    assert 200 <= done[0] <= 3005
    owned = [word for call in calls if call.startswith("chown ") for word in call.split()[3:]]
    assert len(owned) == len(set(owned)) == 3000 + 2 + 3  # files, folders, key


def test_a_file_that_cannot_be_given_ends_the_boot(guest: FakeGuest) -> None:
    guest.write("etc/passwd", PASSWD.replace("charlie:x:65530", f"charlie:x:{os.getuid()}"))
    guest.write("bin/chown", "#!/bin/sh\nexit 1\n")
    assert guest.boot("20-users.sh").returncode == 1
    assert (
        (guest.root / "etc/passwd").read_text().endswith(f"charlie:x:{os.getuid()}:65530:,:/home/charlie:/bin/bash\n")
    )


def test_hundreds_of_groups(guest: FakeGuest) -> None:
    names = {5000 + number: f"project-{number}-of-the-faculty-of-everything" for number in range(800)}
    guest.write("run/chslurm/groups", "".join(f"{gid}:{name}\n" for gid, name in names.items()) + "7000:\n")
    assert guest.boot("20-users.sh").returncode == 0
    mine = {int(gid): name for name, gid, members in guest.groups() if "charlie" in members}
    assert mine == names | {27: "sudo", 7000: "group_7000"}


def test_charlie_gets_a_private_copy_of_the_key(guest: FakeGuest) -> None:
    guest.write("run/chslurm/id_ed25519", "-----BEGIN\na\\b\n-----END\n")
    guest.boot("20-users.sh")
    assert (guest.run / "user/id_ed25519").read_text() == "-----BEGIN\na\\b\n-----END\n"
    assert (guest.run / "user/id_ed25519").stat().st_mode & 0o777 == 0o600
    assert (guest.run / "user").stat().st_mode & 0o777 == 0o700


def test_charlie_is_shown_for_a_uid_that_another_user_has(guest: FakeGuest) -> None:
    guest.write("etc/passwd", PASSWD.replace("charlie:x", f"debian:x:{UID}:{UID}::/:/bin/sh\ncharlie:x"))
    guest.boot("20-users.sh")
    names = [line.split(":")[0] for line in (guest.root / "etc/passwd").read_text().splitlines()]
    assert names == ["root", "nobody", "charlie", "debian"]


def test_an_image_without_charlie_is_left_alone(guest: FakeGuest) -> None:
    guest.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    assert guest.boot("20-users.sh").returncode == 1
    assert (guest.root / "etc/group").read_text() == GROUP
    assert "the image has no user charlie" in guest.calls()[-1]


# -- the job ----------------------------------------------------------------------------------------------------------


def run_job(guest: FakeGuest, script: str, mode: int = 0o755) -> str:
    """Boot with this job script; return the console. Output is in `chslurm.job.out` and `.err`."""
    guest.write("ch/meta/jobscript", script)
    (guest.root / "ch/meta/jobscript").chmod(mode)
    result = guest.boot("99-runjob.sh")
    assert result.returncode == 0
    return result.stdout


def test_batch_mode_tells_its_story_on_the_console(guest: FakeGuest) -> None:
    console = texts(run_job(guest, "#!/bin/sh\n"))
    assert [text for text in console if not text.endswith(" seconds")] == [
        "running 99-runjob.sh",
        "will shut down after job",
        "forking to run user job",
        "user job complete; writing 0.jobdone",
        "shutting down",
    ]
    assert [text.split()[0] for text in console if text.endswith(" seconds")] == ["99-runjob.sh", "boot.sh"]
    assert guest.calls()[-1] == "chguest job-ended 0"


@pytest.mark.parametrize(
    ("script", "mode", "status"),
    [
        ("#!/bin/sh\nexit 7\n", 0o755, 7),
        ("#!/bin/sh\nkill -KILL $$\n", 0o755, 137),
        ("#!/bin/sh\nkill -INT $$\n", 0o755, 130),
        ("#!/bin/bash\nset -o pipefail\nyes | head -n 1\n", 0o755, 141),
        ("#!/bin/sh\n", 0o644, 126),
        ("#!/no/such/shell\n", 0o755, 127),
        ("exit 9\n", 0o755, 9),
    ],
)
def test_the_status_is_that_of_the_script(guest: FakeGuest, script: str, mode: int, status: int) -> None:
    if mode == 0o644 and os.getuid() == 0:
        mode = 0o600  # root, too, needs one x bit to execute
    run_job(guest, script, mode)
    assert (guest.root / "ch/meta/sync/0.jobdone").read_text() == f"{status}\n"
    assert guest.calls()[-1] == f"chguest job-ended {status}"


@pytest.mark.parametrize(("script", "status"), [("exit 7\n", 7), ("kill -PIPE $$\n", 141)])
def test_an_env_that_knows_no_signals_will_do(guest: FakeGuest, script: str, status: int) -> None:
    """As on RHEL 8, whose coreutils are 8.30."""
    guest.write("bin/env", '#!/bin/sh\ncase $1 in --default-signal) exit 125 ;; esac\nexec /usr/bin/env "$@"\n')
    (guest.root / "bin/env").chmod(0o755)
    run_job(guest, script)
    assert (guest.root / "ch/meta/sync/0.jobdone").read_text() == f"{status}\n"


def test_a_job_finds_its_streams_arguments_umask_home_and_environment(guest: FakeGuest) -> None:
    arguments = ["a b", "$(date)", "it's", "two\nlines", "", "*"]
    guest.write("run/chslurm/jobargs", shlex.join(arguments) + "\n")
    script = '#!/bin/bash\nprintf "%s\\0" "$@" "$(umask)" "$PWD" "$CH_ODD"\necho again >/dev/stderr\ncat\n'
    run_job(guest, script)
    said = (guest.root / "chslurm.job.out").read_text().split("\0")
    assert said == [*arguments, "0007", f"{guest.root}/home/charlie", "a'b", ""]
    assert (guest.root / "chslurm.job.err").read_text() == "again\n"


def test_all_output_has_arrived_when_the_end_is_told(guest: FakeGuest) -> None:
    run_job(guest, "#!/bin/sh\nhead -c 20000000 /dev/zero\n")
    assert (guest.root / "chslurm.job.out").stat().st_size == 20_000_000


def test_a_process_that_outlives_the_script_delays_the_end_by_seconds_only(guest: FakeGuest) -> None:
    run_job(guest, f"#!/bin/sh\n{{ sleep 9; echo late; touch {guest.root}/late; }} &\n")
    waited_s = (guest.root / "late").stat().st_mtime - (guest.root / "ch/meta/sync/0.jobdone").stat().st_mtime
    assert 2 < waited_s < 6
    assert (guest.root / "chslurm.job.out").read_text() == "late\n"


ASKED_TO_END = """#!/bin/bash
trap 'touch saved; echo saved; exit 5' TERM
echo $$ >started
while true; do sleep 1; done
"""
DEAF = "#!/bin/bash\ntrap '' TERM\necho $$ >started\nwhile true; do sleep 1; done\n"


@pytest.mark.parametrize(("script", "saved"), [(ASKED_TO_END, "saved\n"), (DEAF, "")])
def test_a_shutdown_ends_the_job_before_its_directories_go(guest: FakeGuest, script: str, saved: str) -> None:
    """What systemd does when it stops the unit that the boot script has made."""
    guest.write("ch/meta/jobscript", script)
    (guest.root / "ch/meta/jobscript").chmod(0o755)
    home = guest.root / "home/charlie"

    def shut_down() -> None:
        while not (home / "started").exists() or not (home / "started").read_text():
            time.sleep(0.05)
        unit = (guest.root / "run/systemd/system/chslurm-job.service").read_text()
        (stop,) = re.findall("^ExecStop=(.*)$", unit, re.M)
        subprocess.run(shlex.split(stop), env=os.environ | {"CH_ROOT": str(guest.root)}, check=True, timeout=30)
        assert not Path("/proc", (home / "started").read_text().strip()).exists()
        assert not (guest.run / "job.pid").exists()

    with ThreadPoolExecutor() as pool:
        shutdown = pool.submit(shut_down)
        assert guest.boot("99-runjob.sh").returncode == 0
        shutdown.result()
    assert (guest.root / "chslurm.job.out").read_text() == saved
    assert (home / "saved").exists() is bool(saved)
    assert not [call for call in guest.calls() if "job-ended" in call]  # the guest ends, not the job


def pass_signals(guest: FakeGuest, script: str, names: list[str]) -> tuple[str, list[str]]:
    """Run this job while its host passes signals on, each when the one before was done; return output and log."""
    guest.write("ch/meta/jobscript", f"#!/bin/bash\n{script}\n")
    (guest.root / "ch/meta/jobscript").chmod(0o755)
    (guest.root / "released").mkdir()
    output = guest.root / "chslurm.job.out"

    def tell() -> None:
        for number, name in enumerate(names, start=1):
            while not output.exists() or len(output.read_text().splitlines()) < number:
                time.sleep(0.05)
            guest.write(f"run/chslurm/signal.{number}", f"{name}\n")
            guest.write(f"released/chslurm.signal.{number}", "")

    with ThreadPoolExecutor() as pool:
        telling = pool.submit(tell)
        console = guest.boot("99-runjob.sh").stdout
        telling.result()
    return output.read_text(), [text for text in texts(console) if "USR" in text]


def test_signals_reach_the_script_and_nothing_else(guest: FakeGuest) -> None:
    script = """
        trap 'echo one' USR1; trap 'echo two; exit 3' USR2; echo start
        sleep 20 & while true; do wait $!; kill -0 $! || exit 9; done"""
    said, log = pass_signals(guest, script, ["USR1", "USR2"])
    assert said == "start\none\ntwo\n"
    assert log == ["passing USR1 on to user job", "passing USR2 on to user job"]
    assert (guest.root / "ch/meta/sync/0.jobdone").read_text() == "3\n"


def test_a_script_that_did_not_ask_for_a_signal_is_not_ended_by_it(guest: FakeGuest) -> None:
    said, log = pass_signals(guest, "trap : USR2; echo start; sleep 2; echo end", ["USR1"])
    assert said == "start\nend\n"
    assert log == ["user job does not catch USR1"]


@pytest.mark.parametrize(("broken", "told"), [("", False), ("yes", True)])
def test_a_screen_gets_its_driver_and_a_login(tmp_path: Path, broken: str, told: bool) -> None:
    guest = make_guest(tmp_path, interactive=True, vga=True)
    result = guest.boot("99-runjob.sh", broken=broken)
    assert result.returncode == 0
    assert guest.calls()[1:] == [
        "modprobe -q bochs",
        *(["modprobe -q bochs_drm"] if broken else []),
        "systemctl --no-block start getty@tty1.service",
        "systemctl --no-block start serial-getty@hvc0.service",
    ]
    assert ("the image has no driver for a screen (kernel module bochs)" in texts(result.stdout)) is told


def test_interactive_mode_offers_a_login_and_runs_nothing(tmp_path: Path) -> None:
    guest = make_guest(tmp_path, interactive=True, guest_id=2)
    run_job(guest, "#!/bin/sh\necho ran\n")
    assert guest.calls() == ["chguest stage 99-runjob", "systemctl --no-block start serial-getty@hvc0.service"]
    assert not (guest.root / "ch/meta/sync/2.jobdone").exists()


def test_ready_is_said_before_waiting_for_the_others(guest: FakeGuest) -> None:
    guest.boot("80-sync.sh")
    assert (guest.root / "ch/meta/sync/0.jobready").exists()
    assert guest.calls() == ["chguest stage 80-sync", "chguest ready", "chguest barrier boot"]


def test_without_sync_a_guest_waits_for_nobody(tmp_path: Path) -> None:
    guest = make_guest(tmp_path, sync=False)
    assert guest.boot("80-sync.sh").returncode == 0
    assert (guest.root / "ch/meta/sync/0.jobready").exists()
    assert guest.calls() == ["chguest stage 80-sync", "chguest ready"]
