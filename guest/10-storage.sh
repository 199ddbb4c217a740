# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# Swap, /ch/tmp and the directories passed through from the host. The host made the file systems, and the agent
# mounted /ch/opt and /ch/meta before anything else. One mount call for everything: it is the slow part.

# Of all options these measured best. Nothing is cached, so an edit on the host is seen at once.
P9_OPTIONS=trans=virtio,version=9p2000.L,msize=512000,cache=none

{
    echo "/dev/vdb2 $CH_ROOT/ch/tmp ext4 defaults"
    echo "sync $CH_ROOT/ch/meta/sync 9p rw,$P9_OPTIONS"
    while read -r share mode; do
        [ -d "$CH_ROOT/ch/$share" ] || mkdir "$CH_ROOT/ch/$share"
        echo "$share $CH_ROOT/ch/$share 9p $mode,$P9_OPTIONS"
    done <"$CH_RUN/shares"
} >"$CH_RUN/fstab"

# What mount says names the place, and so the share.
if ! mount -a -T "$CH_RUN/fstab" 2>"$CH_RUN/mount.err"; then
    IFS= read -r why <"$CH_RUN/mount.err" || :
    fail "cannot mount ${why#mount: }"
fi
chmod 1777 "$CH_ROOT/ch/tmp"

swapon /dev/vdb1 || fail 'cannot use /dev/vdb1 as swap; was the temporary disk made?'
