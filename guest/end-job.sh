#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The guest shuts down while its job runs: end the job, as long as it has its directories. systemd runs this when it
# stops chslurm-job.service (see 99-runjob.sh), which it does before it unmounts anything.
#
# The script and its children are asked first, and have JOB_END_TIMEOUT_S for what they still have to save; the
# host has its own deadline for the whole guest.
JOB_END_TIMEOUT_S=5

run=${CH_ROOT:-}/run/chslurm

# Until nothing of the job is left, its output neither; 50 times a second would be work for an emulated guest.
wait_for_job() { # SECONDS
    ticks=$(($1 * 5))
    while [ -e "$run/job.pid" ] && [ "$ticks" -gt 0 ]; do
        ticks=$((ticks - 1))
        sleep 0.2
    done
    [ ! -e "$run/job.pid" ]
}

: >"$run/ending"
read -r job <"$run/job.pid" || exit 0
kill -s TERM -- "-$job"
wait_for_job "$JOB_END_TIMEOUT_S" && exit
kill -s KILL -- "-$job"
wait_for_job 1
exit 0
