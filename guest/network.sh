# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# Configure lo and eth0, read by 30-hostname.sh. The MAC is set although the host gave the device the same one: a guest
# that was cloned from a saved one still has the MAC of that. Everything may be repeated.

# Neighbours are filtered by their IPv4 address; IPv6 would be a way around that, so there is none.
for switch in "$CH_ROOT"/proc/sys/net/ipv6/conf/*/disable_ipv6; do
    [ ! -e "$switch" ] || echo 1 >"$switch"
done

ip -batch - <<EOF || fail "cannot set $CH_GUEST_IP/$CH_GUEST_PREFIX on eth0; has the guest a network device?"
link set dev lo up
link set dev eth0 address $CH_GUEST_MAC mtu $CH_MTU
address replace $CH_GUEST_IP/$CH_GUEST_PREFIX dev eth0
link set dev eth0 up
route replace default via $CH_GATEWAY_IP dev eth0
EOF
