#!/bin/bash

# Demonstrate that MPI works in C and Python.
#
# Requires ./data as first --dir.

if [ "$CH_GUEST_ID" != 0 ]; then
    echo 'not guest 0; waiting for work'
    exit 0
fi

# SPDX-License-Identifier: Apache-2.0
#
# Every guest runs this script, but one mpirun starts the processes on all of them: the image's default host file
# is /ch/meta/hostfile. The first command that fails ends the job, and its status becomes the job's.
set -eu

# The program has to be where all guests see it, and nothing of it shall stay there.
: "${CH_DATA1:?start the cluster with --dir examples/mpihello/data}"
build=$(mktemp -d "$CH_DATA1/build.XXXXXX")
trap 'rm -rf "$build"' EXIT

echo 'Are we running on all nodes?'
mpirun hostname

echo
echo 'Can we do MPI in C?'
mpicc -O1 -Wall -o "$build/hello" "$CH_DATA1/hello.c"
mpirun "$build/hello"

echo
echo 'Can we do MPI in Python?'
mpirun python3 "$CH_DATA1/hello.py"
