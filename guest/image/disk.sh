#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# disk.sh ROOT: packs the tree into ROOT/chslurm-build/disk.qcow2. Runs as root of the tree, so that owners come out right.
# CHSLURM_DISK_MIB is the size of the root file system; before it lie the partition table and the boot partition.
set -eu
root=$1
build=$root/chslurm-build
boot_mib=256 first_mib=1 last_mib=1
root_at_mib=$((first_mib + boot_mib))
step() { echo "chslurm: $*" >&2; }

# The tree is copied from a second view of it, which does not show what is mounted in it (/proc, /sys, /dev).
work=$(mktemp -d "$(dirname "$root")/chslurm-disk.XXXXXX")
trap 'exit 1' HUP INT TERM
trap 'umount "$work/tree" 2>/dev/null || :; rmdir "$work/tree" && rm -rf "$work"' EXIT
mkdir "$work/tree" "$work/aside"
disk=$work/raw

step "making the boot bundle"
mkdir -p "$build/boot"
truncate -s "${boot_mib}M" "$build/boot/part"
chroot "$root" /usr/lib/chslurm/boot-bundle --output /chslurm-build/boot/part

step "making the root file system"
truncate -s "$((root_at_mib + CHSLURM_DISK_MIB + last_mib))M" "$disk"
dd if="$build/boot/part" of="$disk" bs=1M seek="$first_mib" conv=notrunc,sparse status=none
# Out of the way while the tree is copied: our files, and those that mmdebstrap still needs in /tmp.
mv "$build" "$root/tmp" "$work/aside/"
mkdir -m 1777 "$root/tmp"
mount --bind "$root" "$work/tree"
mkfs.ext4 -q -F -L root -m 1 -J size=64 -E "offset=$((root_at_mib * 1048576))" -d "$work/tree" "$disk" "${CHSLURM_DISK_MIB}M"
umount "$work/tree"
rmdir "$root/tmp"
mv "$work/aside/chslurm-build" "$work/aside/tmp" "$root/"
sgdisk --clear --set-alignment=1 \
    --new="2:$((first_mib * 2048)):+${boot_mib}M" --change-name=2:boot --typecode=2:8300 \
    --new="1:$((root_at_mib * 2048)):+${CHSLURM_DISK_MIB}M" --change-name=1:root --typecode=1:8304 "$disk" > /dev/null

step "packing the disk"
qemu-img convert -f raw -O qcow2 "$disk" "$build/disk.qcow2"
