#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Guests to work in by hand, as soon as SLURM has room
#
# Not for sbatch; run it in a terminal:
#
#     CHSLURM_IMAGE=/data/vm/image.qcow2 bash sbatch-templates/chinteractive.sh
#
# salloc waits for nodes and runs chrun here; the console of guest 0 appears in this terminal. Log in as charlie, who has no
# password. More terminals: chslurm ssh 1, chslurm console 1. `sudo poweroff` in guest 0 ends it all; Ctrl-] q leaves only the
# console, and chslurm stop ends the cluster then. Options for salloc: on the command line, or SALLOC_PARTITION and the like.

# What to boot (empty: what settings say); the folder of yours that guests see as /ch/data1; how many nodes, with a guest
# on each; for how long.
IMAGE=
DATA=data
NODES=1
TIME=01:00:00

mkdir -p "$DATA" || exit
exec salloc --nodes="$NODES" --time="$TIME" "$@" chrun --interactive --curses --dir "$DATA" ${IMAGE:+"$IMAGE"}
