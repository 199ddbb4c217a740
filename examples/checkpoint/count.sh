#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Count to a number, a step a second, and go on from what was counted before: stands for work that can be interrupted.
# Ends with 0 when all is done, and with 85 when it was told to stop before.
most=${1:-60}
state=${CH_DATA1:?start the cluster with --dir}/count.$CH_GUEST_ID

count=$(cat "$state" 2>/dev/null || echo 0)
echo "going on from $count"

# Aside and renamed, so that there is always one whole state, whatever happens.
save() {
    echo "$count" >"$state.new" && mv "$state.new" "$state"
}

# USR1 comes before the time limit, TERM when the guest is shut down. bash runs a trap when its command has ended, so
# commands that take long are waited for.
trap 'save; echo "told to stop at $count"; exit 85' USR1 TERM

while [ "$count" -lt "$most" ]; do
    sleep 1 &
    wait $!
    count=$((count + 1))
done
save
echo "counted to $count"
