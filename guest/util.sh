# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# What the boot scripts share. A process costs 10 to 30 ms in an emulated guest, and every guest of a cluster
# pays it at the same time; so whatever the shell can do itself, it does itself.

# Tests set CH_ROOT to a folder that stands for the guest's root.
CH_ROOT=${CH_ROOT:-}
CH_RUN=$CH_ROOT/run/chslurm

booted_s=0
today_number=-1

# Set `uptime_s` to the whole seconds since the kernel started.
read_uptime() {
    read -r uptime_s _ </proc/uptime
    uptime_s=${uptime_s%.*}
}

# Learn the day from date(1), once a day; uptime gives the time within it.
read_clock() {
    # shellcheck disable=SC2046  # two words are wanted
    set -- $(date -u '+%s %Y-%m-%d')
    booted_s=$(($1 - uptime_s))
    today=$2
    today_number=$(($1 / 86400))
}

# Write one line to the console, as 2014-12-02T13:47:39: text (UTC).
log() {
    read_uptime
    now_s=$((booted_s + uptime_s))
    if [ $((now_s / 86400)) -ne "$today_number" ]; then
        read_clock
        now_s=$((booted_s + uptime_s))
    fi
    printf '%sT%02d:%02d:%02d: %s\n' "$today" $((now_s / 3600 % 24)) $((now_s / 60 % 60)) $((now_s % 60)) "$1"
}

# End a numbered script with a reason, for boot.sh to log and to tell the host.
fail() {
    printf '%s\n' "$1" >"$CH_RUN/reason"
    exit 1
}
