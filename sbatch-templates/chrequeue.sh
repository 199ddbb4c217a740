#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A job that goes on where it was, requeued as often as it takes
#
#     CHSLURM_IMAGE=/data/vm/image.qcow2 sbatch sbatch-templates/chrequeue.sh
#
# As chtime.sh; and when the script in guest 0 says by its status that there is more to do, the job goes back into the queue.
# So it does when SLURM preempts it, or a node fails: what was saved last is where it goes on.
#SBATCH --nodes=1
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=chrequeue-%j.out

# What to boot (empty: what settings say); what every guest runs, with its arguments; the folder of yours that guests see
# as /ch/data1; and the exit status of the job that says: once more.
IMAGE=
JOB=examples/checkpoint/count.sh
ARGUMENTS=(3600)
DATA=data
AGAIN=85

# Each attempt has a job directory of its own; results are in DATA.
cd "$SLURM_SUBMIT_DIR" || exit
mkdir -p "$DATA" || exit
attempt=requeue-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
chrun --jobdir "$attempt" --job "$JOB" --dir "$DATA" ${IMAGE:+"$IMAGE"} -- "${ARGUMENTS[@]}" &
chrun=$!

# SLURM's signals come to this script, and are for chrun. A signal ends the wait, but not chrun: wait again;
# and once more for its own status, since it may have ended right after a signal.
trap 'kill -s USR1 "$chrun"' USR1
trap 'kill -s TERM "$chrun"' TERM
while wait "$chrun"; kill -0 "$chrun" 2>/dev/null; do :; done
wait "$chrun"
status=$?

if [ "$status" -eq "$AGAIN" ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
