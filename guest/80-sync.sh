# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# This guest is ready; wait until every guest of the cluster is, unless the user wants no waiting (--nosync). The file is
# for job scripts and people, the barrier is the answer of the host. Ready is said first, so that the host can tell the
# late guest from those that wait for it.

: >"$CH_ROOT/ch/meta/sync/$CH_GUEST_ID.jobready"
chguest ready
if [ "$CH_SYNC" -eq 1 ]; then
    chguest barrier boot
fi
