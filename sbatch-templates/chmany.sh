#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Many small guests on each node
#
#     CHSLURM_IMAGE=/data/vm/image.qcow2 sbatch sbatch-templates/chmany.sh
#
# For more nodes than you have: to try a program, a cluster's set-up, or a lesson at some size. On a node each guest takes
# its RAM and 192 MiB, and all of them together 320 MiB; ask for as much with --mem.
#SBATCH --nodes=2
#SBATCH --cpus-per-task=2
#SBATCH --mem=3G
#SBATCH --time=00:30:00
#SBATCH --output=chmany-%j.out

# What to boot (empty: what settings say); what every guest runs; the folder of yours that guests see as /ch/data1; how
# many guests in all, and the size of each.
IMAGE=
JOB=examples/array/task.sh
DATA=examples/array/data
GUESTS=6
CORES=1
RAM=512M

# --my-size: take no more than that for a guest, whatever the nodes have.
cd "$SLURM_SUBMIT_DIR" || exit
mkdir -p "$DATA" || exit
exec chrun -n "$GUESTS" --my-size --cores "$CORES" --ram "$RAM" --job "$JOB" --dir "$DATA" ${IMAGE:+"$IMAGE"}
