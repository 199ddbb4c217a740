#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Start an MPI program, the arguments of this script, from guest 0 on all guests. It is run in /ch/data1, which all see.
# The image's default host file is /ch/meta/hostfile: as many processes as the guests have cores.
set -eu

# The others have nothing to do; they stay up as long as guest 0's script runs.
[ "$CH_GUEST_ID" = 0 ] || exit 0

cd "${CH_DATA1:?start the cluster with --dir}"
exec mpirun "$@"
