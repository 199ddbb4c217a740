# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2034,SC2154 # names that the other files here set or use
# The machines of slurm-box: namespaces, links, who belongs to them, how to get in. To be sourced.
#
# Nothing is known by process id. A namespace lives through a bind mount, /run/netns/chbox-NODE or
# $BOX/ns/NODE.{uts,mnt}, and a process belongs to the box if it is in one of them. So whatever an
# `up` that was killed has left is found, and nothing else is ever touched.

BOX=/run/chslurm-box # a tmpfs with all state
BOX_LOCK=/run/chslurm-box.lock
export SLURM_CONF="$BOX/etc/slurm.conf"

box_is_up() { [[ -e $BOX/ready ]]; }

is_node() { [[ $1 =~ ^(login|out|cn[0-9]{3})$ && -e $BOX/ns/$1.mnt ]]; }

# Set `entry` to the command line that leads to NODE, as root.
set_entry() { # NODE
    entry=(nsenter --net="/run/netns/chbox-$1" --uts="$BOX/ns/$1.uts" --mount="$BOX/ns/$1.mnt" --)
}

# Run COMMAND as root on NODE.
inside() { # NODE COMMAND...
    local entry
    set_entry "$1"
    "${entry[@]}" "${@:2}"
}

# Become COMMAND, run by USER on NODE.
become() { # NODE USER COMMAND...
    local entry user=$2 home shell path
    set_entry "$1"
    IFS=: read -r _ _ _ _ _ home shell < <(getent passwd "$user")
    path=$(state_dir)/venv/bin:/usr/local/bin:/usr/bin:/bin
    [[ $user != root ]] || path+=:/usr/local/sbin:/usr/sbin:/sbin
    shift 2
    umask 022
    # shellcheck disable=SC2016 # for the inner shell, which is the user already
    exec "${entry[@]}" \
        setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups --inh-caps=-all --ambient-caps=-all -- \
        env -i HOME="$home" USER="$user" LOGNAME="$user" SHELL="${shell:-/bin/sh}" TERM="${TERM:-dumb}" LANG=C.UTF-8 \
        PATH="$path" SLURM_CONF="$SLURM_CONF" \
        sh -c 'cd -- "$1" 2>/dev/null || cd || exit; unset OLDPWD; shift; exec "$@"' sh "$PWD" "$@"
}

# Start COMMAND as a daemon of root on NODE. It holds the lock until it is inside, where `down` finds it, and nothing
# that whoever called us has open: a lock of theirs would be held for as long as the box is up.
start_daemon() { # NODE LOG COMMAND...
    local entry
    set_entry "$1"
    # shellcheck disable=SC2016 # for the inner shell
    setsid "${entry[@]}" env -i PATH="$PATH" LANG=C.UTF-8 SLURM_CONF="$SLURM_CONF" \
        bash -c 'cd /
            for fd in /proc/self/fd/*; do
                fd=${fd##*/}
                ((fd < 3)) || exec {fd}>&-
            done
            exec "$@"' bash "${@:3}" </dev/null >>"$BOX/log/$2" 2>&1 &
}

make_nodes() { # NODES MTU
    local mtu=$2 node nodes i
    mapfile -t nodes < <(seq -f 'cn%03g' "$1")
    {
        echo "127.0.0.1 localhost"
        echo "10.99.0.254 login"
        echo "203.0.113.2 out"
        for ((i = 1; i <= $1; i++)); do echo "10.99.0.$i ${nodes[i - 1]}"; done
    } >"$BOX/hosts"

    {
        printf 'netns add chbox-%s\n' login out "${nodes[@]}"
        printf 'link add eth1 mtu %s netns chbox-login type veth peer name eth0 mtu %s netns chbox-out\n' "$mtu" "$mtu"
        for node in "${nodes[@]}"; do
            echo "link add $node mtu $mtu netns chbox-login type veth peer name eth0 mtu $mtu netns chbox-$node"
        done
    } | ip -batch -

    ip -n chbox-login -batch - <<END
link set lo up
link add eth0 mtu $mtu type bridge
$(printf 'link set %s master eth0 up\n' "${nodes[@]}")
addr add 10.99.0.254/24 dev eth0
link set eth0 up
addr add 203.0.113.1/24 dev eth1
link set eth1 up
route add default via 203.0.113.2
END
    make_leaf out 203.0.113.2/24 203.0.113.1
    for ((i = 1; i <= $1; i++)); do make_leaf "${nodes[i - 1]}" "10.99.0.$i/24" 10.99.0.254; done

    for node in login out "${nodes[@]}"; do
        : >"$BOX/ns/$node.uts"
        : >"$BOX/ns/$node.mnt"
        nsenter --net="/run/netns/chbox-$node" unshare --propagation=slave \
            --uts="$BOX/ns/$node.uts" --mount="$BOX/ns/$node.mnt" "$repo/misc/lib/node-init.sh" "$BOX" "$node"
    done
    inside login sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

make_leaf() { # NODE ADDRESS GATEWAY
    ip -n "chbox-$1" -batch - <<END
link set lo up
addr add $2 dev eth0
link set eth0 up
route add default via $3
END
}

# Compare this machine with the snapshot in the box, or make that.
residue() { # snapshot | compare [USER]
    if (($# == 2)); then
        python3 "$repo/misc/lib/residue.py" compare-user "$BOX" "$2"
    else
        python3 "$repo/misc/lib/residue.py" "$1" "$BOX" "${BOX_USERS[@]}"
    fi
}

box_up() { # NODES KILL_WAIT MTU
    local options="nodes=$1 kill_wait=$2 mtu=$3" started=$SECONDS
    if box_is_up && [[ $(<"$BOX/options") == "$options" ]] && slurm_is_well "$1"; then
        say "the box is up already: $options"
        return
    fi
    box_down
    [[ -d /dev/net ]] || modprobe tun || true
    [[ -d /dev/net ]] || die "this machine has no /dev/net/tun: load its kernel module tun"

    trap give_up EXIT
    mkdir -p "$BOX"
    mount -t tmpfs -o mode=755 chslurm-box "$BOX"
    mount --make-private "$BOX"
    mkdir -m 755 "$BOX"/{ns,etc,log,spool,site}
    mkdir -p /run/chslurm-jobs
    mount -t tmpfs -o mode=755 chslurm-box "$BOX/ns"
    mount --make-private "$BOX/ns"
    echo "$options" >"$BOX/options"
    mountpoint --quiet /run/netns || touch "$BOX/made-netns"
    make_nodes "$1" "$3"
    start_slurm "$1" "$2"
    residue snapshot
    touch "$BOX/ready"
    trap - EXIT
    say "the box is up after $((SECONDS - started)) s: $options"
}

give_up() {
    say "the box did not come up; last lines of its logs:"
    tail -n 4 "$BOX"/log/*.out >&2 || true
    box_down
}

# Print the ids of all processes that are in a namespace of the box.
box_processes() {
    awk 'NR == FNR { box[$1]; next } $1 in box { split($2, path, "/"); if (!seen[path[3]]++) print path[3] }' \
        <(stat --dereference --format=%d:%i /run/netns/chbox-* "$BOX"/ns/* 2>/dev/null) \
        <(stat --dereference --format='%d:%i %n' /proc/[0-9]*/ns/{net,uts,mnt} 2>/dev/null)
}

# TERM once; from the fourth second on KILL, for another four.
kill_processes() {
    local pids started=$SECONDS signal=TERM
    while mapfile -t pids < <(box_processes) && ((${#pids[@]})); do
        ((SECONDS < started + 4)) || signal=KILL
        ((SECONDS < started + 8)) || break
        [[ ! $signal ]] || kill -s "$signal" "${pids[@]}" 2>/dev/null || true
        signal=
        sleep 0.1
    done
    ((${#pids[@]} == 0)) || say "still there after SIGKILL: ${pids[*]}"
}

box_down() {
    local name made_netns=
    if [[ ! -e $BOX ]] && ! compgen -G '/run/netns/chbox-*' >/dev/null; then
        return
    fi
    rm -f "$BOX/ready"
    cancel_jobs
    kill_processes
    [[ -e $BOX/made-netns ]] && made_netns=yes
    while mountpoint --quiet "$BOX"; do
        umount --recursive "$BOX" || umount --lazy --recursive "$BOX" || break
    done
    for name in $(compgen -G '/run/netns/chbox-*'); do
        ip netns delete "${name##*/}" 2>/dev/null || rm -f "$name"
    done
    [[ $made_netns ]] && remove_netns_folder
    rm -rf --one-file-system "$BOX"
    rmdir /run/chslurm-jobs 2>/dev/null || true
    say "the box is down"
}

# `ip netns add` makes /run/netns with the first namespace and leaves it behind with the last.
remove_netns_folder() {
    [[ $(ls -A /run/netns) ]] && return
    while mountpoint --quiet /run/netns; do umount /run/netns || break; done
    rmdir /run/netns || true
}
