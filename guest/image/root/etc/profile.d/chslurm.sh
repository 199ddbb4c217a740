# shellcheck shell=sh source=/dev/null
# What the host told this guest: CH_* variables, the job's identity, proxies.
[ -r /run/chslurm/environment.sh ] && . /run/chslurm/environment.sh
