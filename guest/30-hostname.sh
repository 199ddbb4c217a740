# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# The name of the guest, where it finds the names of the others, and its network. Nothing before this script needs
# a network. The name stays out of /etc/hostname: a committed image has no identity.

printf '%s\n' "$CH_GUEST_NAME" >"$CH_ROOT/proc/sys/kernel/hostname"

for name in hosts resolv.conf; do
    [ -L "$CH_ROOT/etc/$name" ] || ln -sf "/ch/meta/$name" "$CH_ROOT/etc/$name"
done

# shellcheck source=network.sh
. "$HERE/network.sh"
