#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Work on one line of /ch/data1/inputs: that of this task of the array and this guest. The result is a file of their names.
set -eu

cd "${CH_DATA1:?start the cluster with --dir}"
task=${SLURM_ARRAY_TASK_ID:-0}
line=$((task * CH_GUEST_CT + CH_GUEST_ID + 1))
input=$(sed -n "${line}p" inputs)

echo "task $task, guest $CH_GUEST_ID of $CH_GUEST_CT: $input" | tee "result-${SLURM_JOB_ID:-0}.$CH_GUEST_ID"
