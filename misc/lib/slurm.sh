# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2034,SC2154 # names that the other files here set or use
# SLURM in the machines of slurm-box: configuration, daemons, are they well. To be sourced.

write_slurm_conf() { # NODES KILL_WAIT
    local nodes cpus mib
    nodes="cn[001-$(printf %03d "$1")]"
    cpus=$(nproc)
    cpus=$((cpus < 2 ? cpus : 2))
    # 3 GiB are left to the machine itself.
    mib=$(awk -v nodes="$1" '/^MemTotal:/ { mib = ($2 / 1024 - 3072) / nodes
        print int(mib > 6000 ? 6000 : mib < 64 ? 64 : mib) }' /proc/meminfo)
    cat <<END
ClusterName=box
SlurmctldHost=login
AuthType=auth/munge
AuthInfo=socket=$BOX/munge/socket
SlurmUser=root
SlurmdUser=root
MailProg=/bin/true

StateSaveLocation=$BOX/state
SlurmdSpoolDir=$BOX/spool/%n
SlurmctldPidFile=$BOX/slurmctld.pid
SlurmdPidFile=$BOX/slurmd.%n.pid
SlurmctldLogFile=$BOX/log/slurmctld
SlurmdLogFile=$BOX/log/slurmd.%n

# The nodes share one machine: no control groups, no binding to cores.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobCompType=jobcomp/filetxt
JobCompLoc=$BOX/jobs
MpiDefault=none
SwitchType=switch/none

SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MinJobAge=600

KillWait=$2
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
BatchStartTimeout=30
TCPTimeout=5
MessageTimeout=$((10 + $1 / 4))

# As many nodes as wanted, whatever this machine has.
SlurmdParameters=config_overrides
NodeName=$nodes CPUs=$cpus RealMemory=$mib State=UNKNOWN
Prolog=$BOX/site/prolog
Epilog=$BOX/site/epilog
PartitionName=site Nodes=ALL DefMemPerCPU=$((mib / cpus)) DefaultTime=1:00:00 MaxTime=1-0 State=UP
PartitionName=open Nodes=ALL DefMemPerCPU=$((mib / cpus)) DefaultTime=1:00:00 MaxTime=1-0 State=UP
PartitionName=batch Nodes=ALL Default=YES DefMemPerCPU=$((mib / cpus)) DefaultTime=1:00:00 MaxTime=1-0 State=UP
END
}

# What root runs before and after jobs: for those of the partitions `site` and `open` the real thing, as a site installs
# it; in `open` networks have no filters.
write_prolog() {
    local verb
    cp "$repo/misc/slurm-prolog" "$BOX/site/slurm-prolog"
    cp "$repo/misc/slurm-prolog" "$BOX/site/slurm-epilog"
    cp "$repo/misc/slurm-prolog-check" "$BOX/site/slurm-prolog-check"
    for verb in prolog epilog; do
        # shellcheck disable=SC2016 # for the inner shell
        printf '#!/bin/sh\ncase $SLURM_JOB_PARTITION in site | open) exec "%s" ;; esac\n' "$BOX/site/slurm-$verb" >"$BOX/site/$verb"
    done
    chmod 755 "$BOX"/site/*
    printf '%s\n' JOBS=partition:site OPEN=partition:open TAPS=4 "CHSLURM=$(state_dir)/venv/bin/chslurm" >"$BOX/site/network.conf"
}

start_munge() {
    mkdir -m 755 "$BOX/munge"
    mkdir -m 700 "$BOX/munge/private"
    head -c 128 /dev/urandom >"$BOX/munge/private/key"
    chmod 400 "$BOX/munge/private/key"
    start_daemon login munged.out munged --foreground --socket="$BOX/munge/socket" \
        --key-file="$BOX/munge/private/key" --seed-file="$BOX/munge/private/seed" \
        --pid-file="$BOX/munge/munged.pid" --log-file="$BOX/munge/private/log" --num-threads=4
    wait_for 10 "munged" test -S "$BOX/munge/socket"
}

start_slurm() { # NODES KILL_WAIT
    local node
    write_slurm_conf "$@" >"$BOX/etc/slurm.conf"
    write_prolog
    mkdir -m 700 "$BOX/state"
    start_munge
    start_daemon login slurmctld.out slurmctld -D -f "$SLURM_CONF"
    wait_for 20 "slurmctld" slurm_answers
    chmod 666 "$BOX/jobs" # `sacct -c` of ordinary users opens it for writing, too
    for node in $(seq -f 'cn%03g' "$1"); do
        mkdir -m 755 "$BOX/spool/$node"
        start_daemon "$node" "slurmd.$node.out" slurmd -D -f "$SLURM_CONF"
    done
    wait_for $((30 + $1)) "all nodes to be idle" slurm_is_well "$1"
}

slurm_answers() { inside login timeout 5 scontrol ping >/dev/null 2>&1; }

# Has every node its slurmd, and could all take a job as far as slurmctld knows?
slurm_is_well() { # NODES
    local well daemons
    daemons=$(box_processes | xargs -r ps -o comm= -p | grep -cx slurmd)
    ((daemons >= $1)) || return
    well=$(inside login timeout 5 sinfo --noheader --partition=batch --Node --format=%T 2>/dev/null | grep -cxE 'idle|mixed|allocated|completing')
    ((well == $1))
}

# Let running jobs tidy up before everything is killed.
cancel_jobs() {
    local until=$((SECONDS + 5))
    [[ -e $BOX/ns/login.mnt && -S $BOX/munge/socket ]] || return 0
    inside login timeout 5 scancel --state=PENDING,RUNNING,SUSPENDED >/dev/null 2>&1 || return 0
    while ((SECONDS < until)) && [[ $(inside login timeout 5 squeue --noheader 2>/dev/null) ]]; do sleep 0.2; done
}

wait_for() { # SECONDS WHAT COMMAND...
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < until)) || die "waited in vain for $what"
        sleep 0.2
    done
}
