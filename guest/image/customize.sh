#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# customize.sh ROOT: makes a guest out of a tree with all packages installed. Runs as root of the tree, maybe only of a
# user namespace. CHSLURM_APT_SOURCES holds the deb822 text of the sources that the guest will use.
set -eu
root=$1
build=$root/chslurm-build
in_tree() { chroot "$root" "$@"; }
step() { echo "chslurm: $*" >&2; }

step "compiling the boot hook"
mkdir -p "$root/usr/lib/chslurm"
in_tree gcc -static -O2 -Wall -o /usr/sbin/chguest /chslurm-build/image/chguest.c
in_tree gcc -static -Os -Wall -o /usr/lib/chslurm/init /chslurm-build/image/init.c
in_tree strip /usr/sbin/chguest /usr/lib/chslurm/init

step "configuring the guest"
# Modes are ours, whatever umask the files were checked out or installed with.
tar -C "$build/image/root" --owner=0 --group=0 --mode=u=rwX,go=rX -cf - . |
    tar -C "$root" --no-overwrite-dir --keep-directory-symlink -xf -
chmod 0755 "$root"/usr/lib/chslurm/apt "$root"/usr/lib/chslurm/boot-bundle "$root"/usr/lib/chslurm/generator "$root"/usr/lib/chslurm/shutdown \
    "$root"/etc/kernel/*/zz-chslurm
chmod 0440 "$root/etc/sudoers.d/chslurm"
for name in shutdown poweroff halt reboot; do
    ln -s /usr/lib/chslurm/shutdown "$root/usr/local/sbin/$name"
done
for name in apt apt-get; do
    ln -s /usr/lib/chslurm/apt "$root/usr/local/bin/$name"
done
mkdir -p "$root/ch/meta" "$root/ch/opt" "$root/ch/tmp" "$root/ch/data1" "$root/ch/data2" "$root/ch/data3" "$root/ch/data4"

in_tree groupadd --gid 65530 charlie
in_tree useradd --uid 1000 --gid charlie --create-home --shell /bin/bash --comment "Charlie" charlie
in_tree install -d -m 0700 -o charlie -g charlie /home/charlie/.ssh
in_tree passwd --quiet --delete charlie
in_tree passwd --quiet --lock root

# What users make is for their group as well; what root makes for the system keeps the usual umask.
for service in common-session common-session-noninteractive; do
    cat >> "$root/etc/pam.d/$service" <<'PAM'
session [success=1 default=ignore] pam_succeed_if.so quiet uid = 0
session optional pam_umask.so umask=0007
session optional pam_permit.so
PAM
done
# `ssh GUEST COMMAND` and orted read no profile; Debian's bash reads this file then.
sed -i '1i [ -r /run/chslurm/environment.sh ] \&\& . /run/chslurm/environment.sh' "$root/etc/bash.bashrc"
: > "$root/etc/motd"
rm -f "$root"/etc/update-motd.d/*

step "choosing units"
while read -r unit; do
    case $unit in ''|'#'*) continue ;; esac
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done < "$build/image/masked-units"
mkdir -p "$root/etc/systemd/system-generators" "$root/etc/tmpfiles.d"
for generator in "$root"/lib/systemd/system-generators/*; do
    case ${generator##*/} in
        systemd-fstab-generator|systemd-sysv-generator)
            ln -s /usr/lib/chslurm/generator "$root/etc/systemd/system-generators/${generator##*/}" ;;
        *) ln -sf /dev/null "$root/etc/systemd/system-generators/${generator##*/}" ;;
    esac
done
ln -sf /dev/null "$root/etc/tmpfiles.d/systemd-nologin.conf"  # users may come while services still start
in_tree systemctl --quiet disable ssh.service
in_tree systemctl --quiet enable ssh.socket
in_tree systemctl --quiet set-default chslurm.target

step "removing what is only of use here"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/* \
    "$root"/etc/apt/apt.conf.d/*mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/*mmdebstrap \
    "$root/var/lib/man-db/auto-update" "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
printf '%s\n' "$CHSLURM_APT_SOURCES" > "$root/etc/apt/sources.list.d/debian.sources"
in_tree apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old \
    "$root"/var/cache/man "$root"/var/log/apt "$root"/var/log/*.log "$root"/var/tmp/* "$root"/boot/initrd.img*
mkdir -p "$root/var/cache/man"
: > "$root/etc/machine-id"
ln -sf /ch/meta/hosts "$root/etc/hosts"
ln -sf /ch/meta/resolv.conf "$root/etc/resolv.conf"
cp "$build/image/root/etc/hostname" "$root/etc/hostname"
