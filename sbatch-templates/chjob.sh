#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A job on several nodes, one guest on each
#
#     CHSLURM_IMAGE=/data/vm/image.qcow2 sbatch sbatch-templates/chjob.sh
#
# Each guest is as large as what SLURM gives this job on its node.
#SBATCH --nodes=3
#SBATCH --job-name=mpihello
#SBATCH --time=00:30:00
#SBATCH --output=chjob-%j.out
#
# More of each node, if the guests need it (remove one #):
##SBATCH --cpus-per-task=2
##SBATCH --mem=4G
##SBATCH --exclusive

# What to boot (empty: what settings say); what every guest runs; the folder of yours that guests see as /ch/data1.
IMAGE=
JOB=examples/mpihello/mpihello.sh
DATA=examples/mpihello/data

# The job directory charlie.DATE_TIME, with the output of the job in out/, appears in this folder, too.
cd "$SLURM_SUBMIT_DIR" || exit
mkdir -p "$DATA" || exit

# exec: chrun takes the place of this script. So scancel and the time limit reach chrun itself, which takes the guests
# down in order; and the exit status of the job in the guests becomes that of the SLURM job.
#
#   --job FILE    what to run on every guest; without it the guests wait for a login (--interactive)
#   --dir DIR     a directory of yours as /ch/data1 in all guests; repeat it for /ch/data2 and so on
#   -n N          more guests than nodes, in all
exec chrun --job "$JOB" --dir "$DATA" ${IMAGE:+"$IMAGE"}
