#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Become the user's job script. This runs as charlie, with a fresh environment and the job's standard streams; its
# status is that of the job: 126 for a script that is not executable, 127 for one that is missing.

run=${CH_ROOT:-}/run/chslurm

unset CH_ROOT
umask 0007
export LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin
# shellcheck source=/dev/null
. "$run/environment.sh"
cd || exit 126

# The host quoted the arguments for this eval.
if [ -s "$run/jobargs" ]; then
    eval "set -- $(cat "$run/jobargs")"
fi

exec "$CH_META/jobscript" "$@"
