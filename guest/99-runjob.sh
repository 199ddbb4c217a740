# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# Batch: run the user's job script in the background and tell the host how it ended. The host decides what happens then.
# Interactive: offer a login on the console and leave the script to the user.

# Open the port NAME of the host as file descriptor 5 (job output) or 6 (job errors).
open_ports() {
    out_port=$(chguest port chslurm.job.out) && err_port=$(chguest port chslurm.job.err) &&
        command exec 5>"$out_port" 6>"$err_port"
}

# Run the job as charlie, set `status` to its exit status (128+N when signal N ended it).
#
# A virtio port can be open only once, and /dev/stderr opens again what it names; so pipes that charlie may open stand
# between the job and the ports. A process that outlives the script may hold them open: its output is relayed as
# long as the guest runs, but waited for no more than DRAIN_TIMEOUT_S. job.end ends when both relays have ended.
DRAIN_TIMEOUT_S=5
run_as_charlie() {
    job=$CH_RUN/job
    mkfifo -m 0666 "$job.out" "$job.err" "$job.end"

    # shellcheck disable=SC2094  # a pipe: 7 keeps it open for writing, 8 sees its end
    exec 7<>"$job.end" 8<"$job.end"
    cat <"$job.out" >&5 8<&- &
    cat <"$job.err" >&6 8<&- &
    exec 5>&- 6>&- 7>&-

    while IFS=: read -r name _ _ _ _ home shell; do
        [ "$name" != charlie ] || break
    done <"$CH_ROOT/etc/passwd"

    # Services ignore SIGPIPE, and shells in the background SIGINT; a job expects neither. Before coreutils 8.31 env can't
    # change that; bash, which is sh on such systems, can, and the agent has done its part for SIGPIPE.
    default_signals=--default-signal
    env $default_signals true 2>/dev/null || default_signals=
    trap - INT QUIT
    setsid env $default_signals -i HOME="$CH_ROOT$home" SHELL="$shell" USER=charlie LOGNAME=charlie TERM="${TERM:-dumb}" \
        PATH="$PATH" CH_ROOT="$CH_ROOT" \
        setpriv --reuid charlie --regid charlie --init-groups \
        sh "$HERE/charlie.sh" </dev/null >"$job.out" 2>"$job.err" 8<&- &
    job_pid=$!
    echo "$job_pid" >"$job.pid"
    pass_signals 8<&- &
    passer=$!
    wait "$job_pid"
    status=$?
    kill "$passer" 2>/dev/null

    timeout "$DRAIN_TIMEOUT_S" cat <&8
    rm "$job.pid"
}

# Pass on signals for the job, which SLURM or the user has sent to the launcher: the host writes the name of the Nth to
# signal.N, then opens the barrier where this waits. Like those of `sbatch --signal=B:USR1@60` they are for the script,
# not for what it runs; and for one that has asked for them: any other would be ended by what is only a notice.
pass_signals() {
    number=1
    while chguest barrier "chslurm.signal.$number" >/dev/null 2>&1 && read -r name <"$CH_RUN/signal.$number"; do
        if catches "$job_pid" "$name"; then
            log "passing $name on to user job"
            kill -s "$name" "$job_pid"
        else
            log "user job does not catch $name"
        fi
        number=$((number + 1))
    done
}

# Whether a process has a handler for USR1 or USR2, signals 10 and 12. Names of no others come here.
catches() { # PID NAME
    case $2 in
        USR1) bit=512 ;;
        *) bit=2048 ;;
    esac
    while read -r key mask; do
        [ "$key" != SigCgt: ] || break
    done <"/proc/$1/status"
    [ $((0x${mask#????????????} & bit)) -ne 0 ]
}

# Have the job ended first when the guest shuts down: systemd stops this unit before it unmounts what comes before
# local-fs.target and remote-fs.target, which is all that is passed through. While the guest lives the unit does nothing.
guard_job() {
    mkdir -p "$CH_ROOT/run/systemd/system"
    cat >"$CH_ROOT/run/systemd/system/chslurm-job.service" <<END
[Unit]
Description=Job of the virtual cluster
After=local-fs.target remote-fs.target
Wants=remote-fs.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop=/bin/sh $HERE/end-job.sh
END
    systemctl --no-block start chslurm-job.service
}

# Run the job to its end and spread the word: for people, for job scripts, for the host.
run_job() {
    set +e
    chguest job-started
    run_as_charlie
    [ ! -e "$CH_RUN/ending" ] || exit  # the guest shuts down, and that is what there is to tell

    log "user job complete; writing $CH_GUEST_ID.jobdone"
    done_file=$CH_ROOT/ch/meta/sync/$CH_GUEST_ID.jobdone
    echo "$status" >"$done_file.new" && mv "$done_file.new" "$done_file"
    if [ "$CH_GUEST_ID" -eq 0 ]; then
        log 'shutting down'
    else
        log 'staying up for the other guests'
    fi
    chguest job-ended "$status"
}

# A screen (--vga) is one more place to log in. Its driver is loaded only here, so no other guest waits for it.
if [ "$CH_VGA" -eq 1 ]; then
    modprobe -q bochs || modprobe -q bochs_drm || log 'the image has no driver for a screen (kernel module bochs)'
    systemctl --no-block start getty@tty1.service
fi

if [ "$CH_INTERACTIVE" -eq 1 ]; then
    systemctl --no-block start serial-getty@hvc0.service
else
    open_ports || fail 'cannot open the ports for the output of the job'
    log 'will shut down after job'
    log 'forking to run user job'
    guard_job || log 'the job will not be asked to end before the guest is shut down'
    run_job &
fi
