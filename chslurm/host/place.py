# SPDX-License-Identifier: Apache-2.0
"""Look around and decide: everything a cluster needs is looked at here, and nothing is started or made.

What the user named wrongly ends as one UsageError; after `prepare_plan` all input is known to be good.
"""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePath

import chslurm
from chslurm.allocation import Allocation, is_allocation
from chslurm.chain import HEADER_BYTES, MAX_LAYERS, check_beside, check_layer, find_image_format
from chslurm.errors import ChslurmError, ProcessError, UsageError
from chslurm.host import slurm, workstation
from chslurm.host.accel import find_qemu
from chslurm.host.files import read_file_system
from chslurm.host.process import run
from chslurm.host.screen import check_display, find_display
from chslurm.host.sitelimits import check_here, check_images
from chslurm.host.sitetaps import find_site_offer
from chslurm.host.staging import check_job_dir
from chslurm.host.target import check_target
from chslurm.limits import reserve
from chslurm.plan import Group, Image, Layer, Mode, NetworkKind, Plan, User
from chslurm.planner import Facts, SiteOffer, make_plan
from chslurm.request import Request
from chslurm.units import quote

_FIRST_USER_GID = 500
"""Below are system groups; they mean something else in the guest and are not imported."""

_CHECK_FOUND_DAMAGE = 2
"""Exit status of `qemu-img check`; leaks are 3, no answer 1."""

_CHECK_TIMEOUT_S = 3.0


def prepare_plan(request: Request, environment: Mapping[str, str] = os.environ) -> Plan:
    """Return the plan for this request on this machine, in this job. Raises UsageError."""
    user = read_user()
    allocation = read_allocation(environment)
    check_here(request.limits, allocation.mode)
    allocation = reserve(allocation, request.limits)
    _check_job_script(request.job_script)
    for directory in request.directories:
        _check_directory(directory, "--dir", os.R_OK | os.X_OK)
    if request.tmp_dir is not None and allocation.mode is Mode.WORKSTATION:  # else each node's own is meant
        _check_directory(request.tmp_dir, "--tmp-dir", os.W_OK | os.X_OK)
    job_dir = request.job_dir or request.job_base / f"{request.job_name}.YYYYMMDD_HHMMSS"
    check_job_dir(Path(job_dir))
    for directory in request.directories:
        _check_apart(directory, request.job_dir, request.job_base)
    if request.vga:
        _check_screen(allocation.mode, environment)
    image = read_image(request.image)
    check_images(request.limits, [layer.path for layer in image.layers])
    if request.commit_guest is not None:
        check_target(image)
    facts = Facts(
        image=image,
        user=user,
        environment=environment,
        file_system=read_file_system(Path(job_dir)),
        node_dir=find_node_dir(environment),
        now=datetime.now().astimezone(),
        version=chslurm.__version__,
        cluster_id=secrets.token_hex(8),
        vni=1 + secrets.randbelow((1 << 24) - 1),
        site=_find_site(request, allocation.mode),
        warnings=tuple(_find_risks(request, image, allocation.mode)),
    )
    return make_plan(request, allocation, facts)


def _find_site(request: Request, mode: Mode) -> SiteOffer | None:
    """Look for it last: what is free now may be taken in a moment."""
    if mode is Mode.CLUSTER or request.network is NetworkKind.ROOTLESS:
        return None
    return find_site_offer()


def read_allocation(environment: Mapping[str, str] = os.environ) -> Allocation:
    """Return what SLURM gave us, or this machine. Raises UsageError."""
    return slurm.read_allocation(environment) if is_allocation(environment) else workstation.read_allocation()


def read_user() -> User:
    """Return the invoking user with all groups that are not the system's. Raises UsageError for root."""
    uid, gid = os.getuid(), os.getgid()
    if 0 in (uid, os.geteuid()):
        raise UsageError("can't run as root: a cluster belongs to an ordinary user", hint="run it as yourself")
    gids = {gid, *os.getgroups()}
    groups = tuple(Group(_group_name(number), number) for number in sorted(gids) if number >= _FIRST_USER_GID)
    try:
        name = _clean(pwd.getpwuid(uid).pw_name)
    except KeyError:  # no directory service answers: the number is enough
        name = str(uid)
    return User(name, uid, gid, groups)


def find_node_dir(environment: Mapping[str, str]) -> str:
    """Return the folder for temporary files, which every node is to have."""
    folder = environment.get("TMPDIR", "")
    return folder if os.path.isabs(folder) and folder.isprintable() else "/tmp"


def _group_name(gid: int) -> str:
    try:
        return _clean(grp.getgrgid(gid).gr_name)
    except KeyError:
        return f"group{gid}"


def _clean(name: str) -> str:
    """Names come from wherever the site keeps them: what is not UTF-8 or not printable is in no plan."""
    return "".join(c if c.isprintable() else "_" for c in name)


def read_image(path: PurePath) -> Image:
    """Look at an image and all its layers. Raises UsageError when it can't be booted from."""
    name, real = f"image {quote(str(path))}", os.path.realpath(path)
    found = _stat(path, name)
    layers = [_make_layer(real, find_image_format(real, _read_header(real, name, found)), found)]
    for _ in range(MAX_LAYERS):
        top = layers[-1]
        below = check_layer(top.path, _ask_about(top))
        _check_whole(top)
        if below is None:
            return Image(tuple(layers))
        layers.append(_find_layer_below(top, *below))
    raise UsageError(f"{name}: more than {MAX_LAYERS} layers", hint="make one file of it with qemu-img convert")


def _find_layer_below(top: Layer, path: str, image_format: str) -> Layer:
    name, real = f"backing file {quote(path)}", os.path.realpath(path)
    check_beside(top.path, PurePath(path).name, PurePath(real))
    found = _stat(real, name)
    _read_header(real, name, found)
    return _make_layer(real, image_format, found)


def _make_layer(path: str, image_format: str, found: os.stat_result) -> Layer:
    return Layer(path, image_format, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def _read_header(path: str, name: str, found: os.stat_result) -> bytes:
    _check_regular(found, name)
    try:
        with open(path, "rb") as file:
            return file.read(HEADER_BYTES)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}", hint="ask its owner for read permission") from error


def _ask_about(layer: Layer) -> str:
    """Return what qemu-img says about one layer; `-U`: also while a guest runs from it."""
    argv = ["qemu-img", "info", "-U", "--output=json", "-f", layer.format, layer.path]
    done = run(argv, timeout_s=30.0, check=False)
    if done.status:
        last = (done.stderr.strip().splitlines() or ["qemu-img failed"])[-1]
        raise UsageError(f"image {quote(layer.path)}: not usable: {last.removeprefix('qemu-img: ')}")
    return done.stdout


def _check_whole(layer: Layer) -> None:
    """Raise UsageError when a layer is cut off or damaged. Metadata is read, 0.02 s; slow storage is not waited for."""
    if layer.format == "raw":
        return
    argv = ["qemu-img", "check", "-U", "-q", "-f", layer.format, layer.path]
    with suppress(ProcessError):
        if run(argv, timeout_s=_CHECK_TIMEOUT_S, check=False).status == _CHECK_FOUND_DAMAGE:
            hint = "take a whole copy; qemu-img check says more"
            raise UsageError(f"image {quote(layer.path)}: it is cut off or damaged", hint=hint)


def _check_job_script(script: PurePath | None) -> None:
    if script is None:
        return
    name = f"--job {quote(str(script))}"
    _check_regular(_stat(script, name), name)
    if not os.access(script, os.R_OK):
        raise UsageError(f"{name}: not readable")
    if not os.access(script, os.X_OK):
        raise UsageError(f"{name}: not executable", hint="chmod +x it")
    with open(script, "rb") as file:
        if file.read(256).partition(b"\n")[0].endswith(b"\r"):
            raise UsageError(f"{name}: its lines end as on Windows", hint="remove the carriage returns")


def _check_directory(path: PurePath, option: str, access: int) -> None:
    name = f"{option} {quote(str(path))}"
    if not stat.S_ISDIR(_stat(path, name).st_mode):
        raise UsageError(f"{name}: not a directory")
    if not os.access(path, access):
        raise UsageError(f"{name}: permission denied")


def _check_screen(mode: Mode, environment: Mapping[str, str]) -> None:
    """Raise UsageError when no window can be opened; nodes of an allocation may have another QEMU and look again."""
    try:
        if mode is Mode.WORKSTATION:
            find_display(find_qemu(), mode, environment)
        else:
            check_display(mode, environment)
    except ChslurmError as error:
        raise UsageError(error.message, hint=error.hint) from error


def _check_apart(directory: PurePath, job_dir: PurePath | None, job_base: PurePath) -> None:
    """Raise UsageError when guests could reach the job directory, with its keys and disks, through `directory`."""
    name = f"--dir {quote(str(directory))}"
    hint = "guests could change it: choose another place with --jobdir or --jobbase"
    if _lies_in(job_dir or job_base, directory):
        raise UsageError(f"{name}: the job directory would lie in it", hint=hint)
    if job_dir is not None and os.path.exists(job_dir) and _lies_in(directory, job_dir):
        raise UsageError(f"{name}: it lies in the job directory", hint=hint)


def _check_regular(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise UsageError(f"{name}: {kind}", hint="give a file")


def _stat(path: str | PurePath, name: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error


def _find_risks(request: Request, image: Image, mode: Mode) -> Iterator[str]:
    if mode is Mode.WORKSTATION and shutil.which("sbatch"):
        yield "not in a SLURM job: all guests run on this machine; with salloc or sbatch they run on nodes of their own"
    for directory in request.directories:
        if any(_lies_in(layer.path, directory) for layer in image.layers):
            yield f"the image lies in --dir {quote(str(directory))}: guests can change it"


def _lies_in(path: str | PurePath, folder: PurePath) -> bool:
    """Say whether `path` is `folder` or in it, whatever their names: links and bind mounts are seen through."""
    real = PurePath(os.path.realpath(path))
    return any(os.path.exists(place) and os.path.samefile(place, folder) for place in (real, *real.parents))
