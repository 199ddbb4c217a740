#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make a node of slurm-box look like a machine of its own. Runs as root inside the node's new
# network, UTS and mount namespaces: node-init.sh BOX HOSTNAME
set -eu
box=$1

hostname "$2"

# The namespaces of the other nodes are nothing that this node should see or keep alive.
umount --lazy --recursive /run/netns
umount --lazy --recursive "$box/ns"


# What root's prolog makes for a job: namespaces with a name, and what is remembered of them.
mount -t tmpfs -o mode=755,size=1m tmpfs /run/netns
mount -t tmpfs -o mode=700,size=1m tmpfs /run/chslurm-jobs

mount --bind "$box/hosts" /etc/hosts
if [ -d /etc/slurm ]; then # for jobs with an empty environment (sbatch --export=NONE)
    mount --bind "$box/etc" /etc/slurm
fi

# The TUN device for everybody, as udev makes it; the machine's own may be for root alone.
mount -t tmpfs -o mode=755,size=64k tmpfs /dev/net
mknod -m 0666 /dev/net/tun c 10 200

# As systemd has it: everybody may ping.
echo "0 2147483647" >/proc/sys/net/ipv4/ping_group_range
