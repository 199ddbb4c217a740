# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2034,SC2154 # names that the other files here set or use
# What a fresh machine needs before anything of the project runs. To be sourced, after common.sh.
# Each need_... makes sure of one thing, does nothing when it is there, and may run twice at once.

# Debian package, and a command in it by which it is known on other systems
PACKAGES=(
    slurm-wlm:slurmctld munge:munged
    qemu-system-x86:qemu-system-x86_64 qemu-utils:qemu-img
    passt:pasta slirp4netns:slirp4netns nftables:nft iproute2:ip iputils-ping:ping openssh-client:ssh
    mmdebstrap:mmdebstrap gdisk:sgdisk e2fsprogs:mkfs.ext4 uidmap:newuidmap
    python3-venv:python3 python3-pip:python3
    xterm:xterm xvfb:Xvfb xdotool:xdotool qemu-system-gui:qemu-system-x86_64
    lua5.3:lua5.3 lua-posix:lua5.3 lua-filesystem:lua5.3 lua-json:lua5.3 lua-term:lua5.3 tcl:tclsh # for Lmod and its rival
    shellcheck:shellcheck tmux:tmux zsh:zsh man-db:man gcc:gcc libc6-dev:gcc openssh-server:sshd
)
PACKAGED=( # what a wheel is made of
    pyproject.toml README.md LICENSE NOTICE chslurm guest sbatch-templates examples man completions
    misc/{slurm-prolog,slurm-epilog,slurm-prolog-check,network-w-linux,chslurm-network.service}
)
IMAGE_MADE_OF=(guest/image chslurm/image.py chslurm/bundle.py chslurm/history.py chslurm/host/imagebuild.py chslurm/host/bundle.py)
SYSTEM_PYTHON=/usr/bin/python3 # not what a PATH, pyenv or venv offers: all users must be able to read it
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK="# made by the set-up of chslurm, removed when it ends"

need_packages() { # [PACKAGE:COMMAND]...: all without arguments
    local missing=() entry
    (($#)) || set -- "${PACKAGES[@]}"
    for entry; do
        has_package "${entry%:*}" "${entry#*:}" || missing+=("${entry%:*}")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        die "please install what Debian calls: ${missing[*]}"
    fi
    say "installing packages: ${missing[*]}"
    install_packages "${missing[@]}" || die "could not install: ${missing[*]}"
}

has_package() { # PACKAGE COMMAND
    if command -v dpkg-query >/dev/null; then
        [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
    else
        command -v "$2" >/dev/null
    fi
}

install_packages() ( # PACKAGE...
    lock /run/chslurm-setup.lock "packages"
    export DEBIAN_FRONTEND=noninteractive
    # SLURM and munge come with services; the box starts its own.
    if [[ ! -e $POLICY ]] || grep -qxF "$POLICY_MARK" "$POLICY"; then
        trap 'rm -f "$POLICY"' EXIT
        printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >"$POLICY"
        chmod 755 "$POLICY"
    fi
    apt-get -q -o DPkg::Lock::Timeout=300 update >&2
    apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@" >&2
)

# Print the folder that a Debian package is unpacked in. Lmod and Environment Modules can't both be installed, and
# either changes every login: tests mount them over /usr and /etc where nobody else sees it.
need_unpacked() { # PACKAGE
    local folder
    folder=$(state_dir)/unpacked/$1
    (
        umask 022
        mkdir -p "${folder%/*}"
        lock "${folder%/*}/lock" "packages"
        [[ ! -e $folder ]] || exit 0
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        cd "$work" || exit
        apt-get -q -o APT::Sandbox::User=root download "$1" ||
            { apt-get -q update && apt-get -q -o APT::Sandbox::User=root download "$1"; } || die "could not load: $1"
        dpkg-deb --extract "$1"_*.deb "$folder.new"
        mv "$folder.new" "$folder"
    ) >&2
    printf '%s\n' "$folder"
}

is_user() { # NAME
    [[ $1 =~ ^[a-z_][a-z0-9_-]*$ ]] && getent passwd "$1" >/dev/null
}

need_users() {
    local user
    for user in "${BOX_USERS[@]}"; do
        is_user "$user" || useradd --create-home --user-group --shell /bin/bash "$user" || is_user "$user" ||
            die "could not make the user $user"
    done
}

# Print those PATHs that are there in the checkout.
present() { # PATH...
    local path
    for path; do
        [[ ! -e $repo/$path ]] || printf '%s\n' "$path"
    done
}

# Print a digest over names and contents of the files and folders PATH... of the checkout.
digest_of() ( # PATH...
    mapfile -t paths < <(present "$@")
    cd "$repo" || exit
    find "${paths[@]}" -name __pycache__ -prune -o -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
)

# Make sure that the checkout's package is installed for all users in $(state_dir)/NAME.
need_venv() { # NAME [EXTRA]
    local venv digest
    venv=$(state_dir)/$1
    digest=$(digest_of "${PACKAGED[@]}")
    (
        umask 022
        mkdir -p "$(state_dir)"
        lock "$venv.lock" "$venv"
        trap '(($? == 0)) || say "could not install chslurm into $venv"' EXIT
        [[ ! -e $venv/digest || $(<"$venv/digest") != "$digest" ]] || exit 0
        say "installing chslurm into $venv"
        install_venv "$venv" "${2:+[$2]}" >&2
        echo "$digest" >"$venv/digest"
    )
}

install_venv() ( # VENV EXTRA
    unset PYTHONPATH PYTHONHOME
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    rm -f "$1/digest"
    [[ -x $1/bin/pip ]] || "$SYSTEM_PYTHON" -m venv --clear "$1"

    # A wheel of a copy: building leaves nothing in the checkout, and users need not be able to read that.
    mkdir "$work/source"
    present "${PACKAGED[@]}" |
        tar -C "$repo" --exclude=__pycache__ --files-from=- -cf - | tar -C "$work/source" -xf -
    cd "$work" || exit
    pip=("$1/bin/pip" --quiet --quiet --disable-pip-version-check)
    "${pip[@]}" wheel --no-deps --wheel-dir "$work" "$work/source"
    "${pip[@]}" install --force-reinstall --no-deps "$work"/*.whl
    "${pip[@]}" install --use-pep517 "$(echo "$work"/*.whl)$2" # what it depends on
)

# Print the folder with the checkout's wheel and those of all that it needs, for an installation without a network.
need_wheelhouse() {
    local wheels digest
    wheels=$(state_dir)/wheelhouse
    digest=$(digest_of "${PACKAGED[@]}")
    (
        umask 022
        mkdir -p "$(state_dir)"
        lock "$wheels.lock" "$wheels"
        trap '(($? == 0)) || say "could not make $wheels"' EXIT
        [[ ! -e $wheels/digest || $(<"$wheels/digest") != "$digest" ]] || exit 0
        rm -rf "$wheels.new"
        unset PYTHONPATH PYTHONHOME
        "$SYSTEM_PYTHON" -m pip --quiet --quiet --disable-pip-version-check wheel --wheel-dir "$wheels.new" "$repo"
        echo "$digest" >"$wheels.new/digest"
        rm -rf "$wheels"
        mv "$wheels.new" "$wheels"
    ) >&2
    printf '%s\n' "$wheels"
}

# Print the path of a guest image built from this checkout, which is built first if need be.
need_image() {
    local image new
    need_venv venv
    image=$(state_dir)/image-$(digest_of "${IMAGE_MADE_OF[@]}").qcow2
    new=$(state_dir)/image-new.qcow2
    (
        lock "$(state_dir)/image.lock" "the image"
        trap '(($? == 0)) || say "could not build a guest image"' EXIT
        [[ ! -e $image ]] || exit 0
        say "building $image; this takes some minutes"
        umask 022
        "$(state_dir)/venv/bin/chslurm" image build --output "$new" </dev/null || exit 1
        chmod 644 "$new"
        # Of the names that this function gives, and no others: the folder may hold images of the user's, too.
        find "$(state_dir)" -maxdepth 1 -type f -regextype egrep -regex '.*/image-[0-9a-f]{16}\.qcow2' -delete
        mv "$new" "$image"
    ) >&2
    printf '%s\n' "$image"
}
