#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# essential.sh ROOT: runs after dpkg is there and before the kernel comes. A kernel wants an initramfs generator; ours is
# boot-bundle, and a package without files says so. (initramfs-tools takes minutes on an emulated CPU.)
set -eu
root=$1
mkdir -p "$root/chslurm-build/chslurm-guest/DEBIAN"
cat > "$root/chslurm-build/chslurm-guest/DEBIAN/control" <<'CONTROL'
Package: chslurm-guest
Version: 1
Architecture: all
Maintainer: chslurm <chslurm@localhost>
Provides: linux-initramfs-tool
Description: guest of a virtual cluster
 Boots by /usr/lib/chslurm/boot-bundle, so no initramfs generator is needed.
CONTROL
chroot "$root" dpkg-deb --build /chslurm-build/chslurm-guest
chroot "$root" dpkg --install /chslurm-build/chslurm-guest.deb
