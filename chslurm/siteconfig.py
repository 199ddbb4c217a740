# SPDX-License-Identifier: Apache-2.0
"""Every setting there is, in one table: its names, what it takes, what holds without it, which limit bounds it.

What files and variables are checked by, `chslurm config sample`, the site's reference and the manual page are all made
from it. Who wins is decided in `configured`, what limits mean in `limits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from chslurm.errors import DEBUG_VARIABLE
from chslurm.kinds import Accelerator, NetworkKind, TunnelKind

SITE_FILE = "/etc/charliecloud/config.toml"
USER_FILE = "~/.config/chslurm/config.toml"
"""As people know it; `$XDG_CONFIG_HOME/chslurm/config.toml` when that is set."""

SITE_FILE_VARIABLE = "CHSLURM_SITE_CONFIG"
"""Names the site's file where there is no SITE_FILE: for module files."""

CLUSTER_VARIABLE = "CHSLURM_CLUSTER"
"""Names the cluster that commands mean when no other is named."""

LIMITS_TABLE = "limits"


class Kind(StrEnum):
    """What a value has to be, in words."""

    COUNT = "whole number"
    SECONDS = "whole number of seconds"
    SIZE = 'size: MiB, or a text such as "4G"'
    TIME = 'time: minutes, or a text such as "1:30:00"'
    WORD = "text"
    PATH = "path"
    PATHS = "list of paths"
    CHOICE = "text, one of"
    CHOICES = "list, some of"
    HOSTS = 'list of machines, as "ws[01-20]"'


@dataclass(frozen=True, slots=True)
class Setting:
    """One row. Texts of options and variables are written as values of TOML are, without their quotes."""

    name: str  # in TOML
    kind: Kind
    meaning: str
    default: str  # as typed, or in words
    example: str  # as TOML
    option: str = ""  # of the launcher
    variable: str = ""
    limited_by: str = ""  # the limit that bounds it
    choices: tuple[str, ...] = ()
    workstation: bool = False  # a SLURM job decides itself

    @property
    def type(self) -> str:
        """What it takes, in words."""
        return f"{self.kind} {', '.join(self.choices)}" if self.choices else self.kind


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """A setting as pages tell of it: empty where there is nothing to tell."""

    name: str
    type: str
    default: str
    option: str
    variable: str
    limited_by: str
    meaning: str


def _setting(
    name: str,
    option: str,
    kind: Kind,
    default: str,
    example: str,
    meaning: str,
    *,
    limited_by: str = "",
    choices: tuple[str, ...] = (),
    workstation: bool = False,
) -> Setting:
    variable = f"CHSLURM_{name.upper()}"
    return Setting(name, kind, meaning, default, example, option, variable, limited_by, choices, workstation)


def _proxy(name: str) -> Setting:
    example = '"localhost,.example.org"' if name == "no_proxy" else '"http://proxy.example.org:3128"'
    meaning = f"What guests get as {name}, when neither {name} nor {name.upper()} is set; without a password."
    return Setting(name, Kind.WORD, meaning, "none", example, variable=name)


# fmt: off
SETTINGS = (
    _setting("image", "IMAGE", Kind.PATH, "none", '"/data/vm/image.qcow2"',
             "The image to boot, when the command line names none.", limited_by="image_folders"),
    _setting("guests", "-n", Kind.COUNT, "one for each node; 2 on a workstation", "4",
             "Guests in all.", limited_by="guests_per_node"),
    _setting("cores", "--cores", Kind.COUNT, "2", "2",
             "Cores of each guest on a workstation.", limited_by="reserved_cores", workstation=True),
    _setting("ram", "--ram", Kind.SIZE, "2G", '"2G"',
             "RAM of each guest on a workstation.", limited_by="reserved_ram", workstation=True),
    _setting("jobbase", "--jobbase", Kind.PATH, "the current directory", '"/scratch/$USER"',
             "Where job directories are made."),
    _setting("jobname", "--jobname", Kind.WORD, "charlie", '"charlie"',
             "New job directories are this, a dot and the time."),
    _setting("tmp_size", "--tmp-size", Kind.SIZE, "4G", '"16G"',
             "Size of /ch/tmp and swap of each guest, sparse."),
    _setting("tmp_dir", "--tmp-dir", Kind.PATH, "the job directory, or TMPDIR of a node if that is across the network",
             '"/local"', "Where the disk of /ch/tmp lies on each node."),
    _setting("log_size", "--log-size", Kind.SIZE, "64M", '"16M"',
             "The most that a guest's console takes in the job directory, and what QEMU says as much again."),
    _setting("time_limit", "--time-limit", Kind.TIME, "none", '"8:00:00"',
             "When a cluster is ended, counted from its start."),
    _setting("boot_timeout", "--boot-timeout", Kind.SECONDS, "by what is known of the hosts", "600",
             "How long guests may take to be ready."),
    _setting("accel", "--accel", Kind.CHOICE, Accelerator.AUTO, '"auto"',
             "What runs the processors of guests; auto is KVM where it works, else emulation.",
             choices=tuple(Accelerator)),
    _setting("network", "--network", Kind.CHOICE, NetworkKind.AUTO, '"rootless"',
             "Whose network guests are in; auto is that of root where there is one with room.",
             limited_by="networks", choices=tuple(NetworkKind)),
    _setting("tunnel", "--tunnel", Kind.CHOICE, TunnelKind.AUTO, '"wireguard"',
             "What joins the hosts of a job; auto is WireGuard where all can.",
             limited_by="tunnels", choices=tuple(TunnelKind)),
    *(_proxy(name) for name in ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")),
)
"""What anybody may set: the site, then the user, then variables, then options; the later wins."""

LIMITS = (
    Setting("reserved_cores", Kind.COUNT,
            "Cores of each machine, or of a job's part of it, that guests leave alone.", "0", "1"),
    Setting("reserved_ram", Kind.SIZE,
            "Memory of each machine, or of a job's part of it, that guests leave alone.", "0", '"512M"'),
    Setting("guests_per_node", Kind.COUNT,
            "The most guests of a cluster on one node.", "as many as fit", "16"),
    Setting("image_folders", Kind.PATHS,
            "Images lie in one of these folders or below, wherever links lead; installation media, too.",
            "any folder", '["/data/vm", "$HOME/vm"]'),
    Setting("networks", Kind.CHOICES,
            "Whose networks guests may be in.", "any", '["rootless"]',
            choices=tuple(kind for kind in NetworkKind if kind is not NetworkKind.AUTO)),
    Setting("tunnels", Kind.CHOICES,
            "What may join the hosts of a job, where root has not joined them.", "any", '["wireguard"]',
            choices=tuple(kind for kind in TunnelKind if kind is not TunnelKind.AUTO)),
    Setting("workstations", Kind.HOSTS,
            "Machines that run guests outside of SLURM jobs, too; [] is none, so that login nodes run none.",
            "any machine", '["ws[01-20]"]'),
)
"""What the site alone may set, in its table [limits]: nobody goes beyond it."""
# fmt: on

VARIABLES = (*(row.variable for row in SETTINGS if row.option), SITE_FILE_VARIABLE, CLUSTER_VARIABLE, DEBUG_VARIABLE)
"""All of ours that the program reads; the proxies of the table are everybody's."""


def find_setting(name: str) -> Setting | None:
    """Return the setting of this name, no limit."""
    return next((setting for setting in SETTINGS if setting.name == name), None)


def reference(table: Sequence[Setting] = SETTINGS) -> tuple[ReferenceRow, ...]:
    """Return the rows of the reference, in its order: of SETTINGS, or of LIMITS."""
    return tuple(
        ReferenceRow(
            setting.name,
            setting.type,
            setting.default,
            setting.option,
            setting.variable,
            f"{LIMITS_TABLE}.{setting.limited_by}" if setting.limited_by else "",
            setting.meaning,
        )
        for setting in table
    )


_SITE_HEAD = f"""\
# Settings of chslurm for all users of this machine: {SITE_FILE}.
# Only root may be able to change this file and its folder. Users' own settings ({USER_FILE}),
# variables and options of the command line win over what stands here, but for [{LIMITS_TABLE}].
# In paths ~ and $HOME are the user's home directory, $USER is his name.
"""

_USER_HEAD = f"""\
# Your own settings of chslurm: {USER_FILE}.
# Nobody else may be able to change this file and its folder. Variables and options of the command line win over what
# stands here; what stands here wins over the site's settings, but for its limits.
# In paths ~ and $HOME are your home directory, $USER is your name.
"""


def render_sample(*, site: bool) -> str:
    """Return a settings file in which everything is explained and nothing is set."""
    parts = [_SITE_HEAD if site else _USER_HEAD, *_render_rows(SETTINGS)]
    if site:
        parts += [f"[{LIMITS_TABLE}] # of these nobody goes beyond\n", *_render_rows(LIMITS)]
    return "\n".join(parts)


def _render_rows(table: Sequence[Setting]) -> Iterator[str]:
    for setting in table:
        also = "".join(f"; also {name}" for name in (setting.option, setting.variable) if name)
        told = f"# {setting.meaning}\n#   {setting.type}; default: {setting.default}{also}\n"
        yield f"{told}#{setting.name} = {setting.example}\n"
