# SPDX-License-Identifier: Apache-2.0
"""The choices of a plan. They stand alone, as root's prolog, which has 0.1 s, needs them and not the plan."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """Where a cluster runs: on this one machine, or on the nodes of a SLURM allocation."""

    WORKSTATION = "workstation"
    CLUSTER = "cluster"


class Accelerator(StrEnum):
    """What runs a guest's processor. AUTO: KVM where it truly works, else TCG; each host decides and says why."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class TunnelKind(StrEnum):
    """What joins hosts. AUTO: WireGuard where every host can make it, else VXLAN; the hosts find out and say why."""

    AUTO = "auto"
    WIREGUARD = "wireguard"
    VXLAN = "vxlan"


class NetworkKind(StrEnum):
    """Whose network guests are in. AUTO: one that root has made, where there is one with room, else our own."""

    AUTO = "auto"
    SITE = "site"
    ROOTLESS = "rootless"
