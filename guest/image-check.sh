#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The contract between an image and the launcher, looked at from inside a guest: the job of `chslurm image check`.
# A line for each part; ends with 1 when one is not kept. Runs as charlie.
#
# shellcheck disable=SC2317  # functions are called by name, as conditions

PATH=$PATH:/usr/sbin:/sbin
result=0

# Say whether a condition holds: expect WHAT REMEDY COMMAND...
expect() {
    what=$1 remedy=$2
    shift 2
    if "$@" >/dev/null 2>&1; then
        printf 'ok      %s\n' "$what"
    else
        printf 'FAILED  %s: %s\n' "$what" "$remedy"
        result=1
    fi
}

mounted() { # SOURCE FOLDER TYPE
    grep -q "^$1 $2 $3 " /proc/mounts
}

owns_itself() {
    [ "$(id -gn)" = charlie ] && [ "$(id -g)" = 65530 ] && [ "$(umask)" = 0007 ]
}

no_keys() {
    ! sudo find /etc/ssh /root /home /var/lib -name '*.pub' -prune -o -type f -size -9k \
        -exec grep -l -e '-----BEGIN [A-Z ]*PRIVATE KEY-----' {} + | grep -q .
}

labelled_root() {
    [ "$(sudo e2label /dev/vda1)" = root ]
}

takes_names() {
    [ "$(readlink /etc/hosts)" = /ch/meta/hosts ]
}

under_systemd() {
    read -r name </proc/1/comm && [ "$name" = systemd ]
}

compiles() {
    echo 'int main(void) { return 0; }' | cc -x c -o /dev/null -
}

has_tools() {
    command -v ping && command -v man
}

expect 'root file system is /dev/vda1, ext4' 'make it partition 1' mounted /dev/vda1 / ext4
expect 'root file system is labelled root' 'e2label /dev/vda1 root' labelled_root
expect 'temporary disk is mounted at /ch/tmp' 'the kernel needs ext4 and virtio_blk' mounted /dev/vdb2 /ch/tmp ext4
expect 'passthrough works' 'the kernel needs 9p and 9pnet_virtio' mounted meta /ch/meta 9p
expect 'charlie has group charlie (65530) and umask 0007' 'make user and group in the image' owns_itself
expect 'charlie may do anything by sudo' 'a line in sudoers: charlie ALL=(ALL) NOPASSWD: ALL' sudo -n true
expect 'names come from the cluster' 'ln -sf /ch/meta/hosts /etc/hosts' takes_names
expect 'ssh from guest to guest asks nothing' 'see guest/image/root/etc/ssh' ssh -o BatchMode=yes chgu0 true
expect 'no private key is in the image' 'delete it: keys are made for each cluster' no_keys
expect 'machine id is made at boot' 'empty /etc/machine-id' test -s /etc/machine-id
expect 'systemd manages services' 'systemd has to be pid 1' under_systemd
expect 'a C compiler is there' 'install gcc and libc6-dev' compiles
expect 'MPI runs' 'install openmpi-bin' mpirun -np 1 true
expect 'mpi4py is there' 'install python3-mpi4py' python3 -c 'import mpi4py'
expect 'ping and man are there' 'install iputils-ping and man-db' has_tools

exit "$result"
