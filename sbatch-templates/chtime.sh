#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A job that saves its state before the time limit
#
#     CHSLURM_IMAGE=/data/vm/image.qcow2 sbatch sbatch-templates/chtime.sh
#
# A minute or more before the end SLURM sends USR1 to this script, whose place chrun has taken; chrun passes it on to the script
# in every guest, which saves its state in /ch/data1 and ends. Submit the job again, and it goes on from there.
#SBATCH --nodes=1
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --output=chtime-%j.out

# What to boot (empty: what settings say); what every guest runs, with its arguments; the folder of yours that guests see
# as /ch/data1.
IMAGE=
JOB=examples/checkpoint/count.sh
ARGUMENTS=(3600)
DATA=data

# exec: the signal is for chrun. The example ends with 85 when there is more to do, and so does the SLURM job.
cd "$SLURM_SUBMIT_DIR" || exit
mkdir -p "$DATA" || exit
exec chrun --job "$JOB" --dir "$DATA" ${IMAGE:+"$IMAGE"} -- "${ARGUMENTS[@]}"
