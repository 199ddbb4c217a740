#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# setup.sh ROOT: runs before any package is unpacked, so that dpkg leaves out what a guest does not need.
set -eu
mkdir -p "$1/etc/dpkg/dpkg.cfg.d"
cp "$1/chslurm-build/image/root/etc/dpkg/dpkg.cfg.d/chslurm" "$1/etc/dpkg/dpkg.cfg.d/chslurm"
