#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# An MPI program over the guests of several nodes
#
#     CHSLURM_IMAGE=/data/vm/image.qcow2 sbatch sbatch-templates/chmpi.sh
#
# Guest 0 runs mpirun, which starts a process on each core of all guests. The guests need an MPI of their own; nothing of
# the nodes' is used.
#SBATCH --nodes=2
#SBATCH --cpus-per-task=2
#SBATCH --time=00:30:00
#SBATCH --output=chmpi-%j.out

# What to boot (empty: what settings say); the folder of yours that guests see as /ch/data1; the script that starts mpirun
# there, in that folder; and the program with its arguments.
IMAGE=
DATA=examples/mpi/data
JOB=examples/mpi/mpirun.sh
ARGUMENTS=(python3 rank.py)

cd "$SLURM_SUBMIT_DIR" || exit
mkdir -p "$DATA" || exit
exec chrun --job "$JOB" --dir "$DATA" ${IMAGE:+"$IMAGE"} -- "${ARGUMENTS[@]}"
