#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Turn a machine that has booted into a guest of its cluster. The agent of the image starts this as root once the
# host has said who the guest is: /run/chslurm holds the identity, /ch/opt and /ch/meta are mounted, the clock is set.
#
# Each numbered script is read into a subshell of its own, with util.sh and the identity at hand. The first that
# fails ends the boot, and the host learns why.
set -u

HERE=${0%/*}
: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
umask 0022

# shellcheck source=util.sh
. "$HERE/util.sh"
# shellcheck source=/dev/null
. "$CH_RUN/identity.sh"

read_uptime
boot_start_s=$uptime_s

for path in "$HERE"/[0-9][0-9]-*.sh; do
    script=${path##*/}
    log "running $script"
    chguest stage "${script%.sh}"
    script_start_s=$uptime_s

    (
        set -e
        # shellcheck source=/dev/null
        . "$path"
    )
    status=$?

    if [ "$status" -ne 0 ]; then
        reason="ended with status $status"
        [ -s "$CH_RUN/reason" ] && read -r reason <"$CH_RUN/reason"
        log "$script failed: $reason"
        chguest failed "$script: $reason"
        exit 1
    fi
    read_uptime
    log "$script done in $((uptime_s - script_start_s)) seconds"
done

log "boot.sh done in $((uptime_s - boot_start_s)) seconds"
