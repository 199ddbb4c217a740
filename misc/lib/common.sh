# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What all programs in misc/ share: messages, places, locks. To be sourced.
# shellcheck disable=SC2034 # used by those that source this

set -euo pipefail
shopt -s inherit_errexit

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" # where sudo, su and cron often do not look

BOX_USERS=(chuser chother chthird) # the ordinary users; the first is the usual one

state_dir() { # where venvs and images are kept
    if [[ -n ${CHSLURM_STATE:-} ]]; then
        realpath --canonicalize-missing -- "$CHSLURM_STATE"
    elif ((EUID == 0)); then
        echo /var/lib/chslurm-box
    else
        printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/chslurm-box"
    fi
}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() { # [-STATUS] MESSAGE
    local status=1
    if [[ $1 =~ ^-[0-9]+$ ]]; then
        status=${1#-}
        shift
    fi
    say "$*"
    exit "$status"
}

bad_usage() { die -64 "$* (see ${0##*/} --help)"; }

need_root() {
    ((EUID == 0)) || die "needs root to make the namespaces of its SLURM: sudo $0 ..."
}

# Hold FILE's lock until the caller's (sub)shell and everything it starts without `9>&-` has ended.
lock() { # FILE WHAT
    exec 9>"$1"
    flock --nonblock 9 && return
    say "waiting for another run that works on $2"
    flock 9
}

is_number() { # TEXT LEAST MOST
    [[ $1 =~ ^[0-9]{1,6}$ ]] && ((10#$1 >= $2 && 10#$1 <= $3))
}
