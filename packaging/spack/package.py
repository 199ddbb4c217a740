# SPDX-License-Identifier: Apache-2.0
"""chslurm for Spack. Put this file into `packages/chslurm/` of a repository of your own (`spack repo create`)."""

from spack.package import *


class Chslurm(PythonPackage):
    """Private clusters of virtual machines as ordinary SLURM jobs."""

    license("Apache-2.0")

    # An archive of the checkout: git archive --prefix=chslurm-0.1.0/ -o chslurm-0.1.0.tar.gz HEAD
    # then `spack mirror create`, or `spack develop`, leads to it.
    version("0.1.0")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-hatchling@1.27:", type="build")
    depends_on("py-click@8.1:", type=("build", "run"))
    depends_on("py-cryptography@41:", type=("build", "run"))
    depends_on("py-msgspec@0.18:", type=("build", "run"))
    depends_on("py-python-hostlist@1.21:", type=("build", "run"))
    depends_on("py-qemu-qmp@0.0.3:", type=("build", "run"))
    depends_on("py-rich@13:", type=("build", "run"))

    # Of the system, since their kernel-side counterparts are: QEMU, passt, iproute2, nftables, e2fsprogs.
