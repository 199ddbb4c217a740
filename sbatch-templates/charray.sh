#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A job array, each task a cluster of its own
#
#     CHSLURM_IMAGE=/data/vm/image.qcow2 sbatch sbatch-templates/charray.sh
#
# Guests see their task as SLURM_ARRAY_TASK_ID. All tasks boot the same image, which none of them changes.
#SBATCH --array=0-1
#SBATCH --nodes=1
#SBATCH --time=00:30:00
#SBATCH --output=charray-%A_%a.out

# What to boot (empty: what settings say); what every guest runs; the folder of yours that guests see as /ch/data1.
IMAGE=
JOB=examples/array/task.sh
DATA=examples/array/data

# Tasks start at the same time in the same folder: each has a job directory of its own name.
cd "$SLURM_SUBMIT_DIR" || exit
mkdir -p "$DATA" || exit
exec chrun --jobdir "array-$SLURM_ARRAY_JOB_ID.$SLURM_ARRAY_TASK_ID" --job "$JOB" --dir "$DATA" ${IMAGE:+"$IMAGE"}
