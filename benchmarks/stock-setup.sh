#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Make a fresh Debian tree bootable as an installer would, and let it say when networking and sshd are up.
# A hook of mmdebstrap: stock-setup.sh TREE
set -eu
tree=$1

echo stock >"$tree/etc/hostname"
echo '/dev/vda / ext4 errors=remount-ro 0 1' >"$tree/etc/fstab"
cat >"$tree/etc/network/interfaces" <<END
auto lo enp0s3
iface lo inet loopback
iface enp0s3 inet dhcp
END

cat >"$tree/etc/systemd/system/benchmark.service" <<END
[Unit]
After=networking.service ssh.service
Requires=networking.service ssh.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo benchmark: ready >/dev/ttyS0'
END
mkdir -p "$tree/etc/systemd/system/multi-user.target.wants"
ln -s ../benchmark.service "$tree/etc/systemd/system/multi-user.target.wants"
