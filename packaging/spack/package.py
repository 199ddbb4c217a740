# SPDX-License-Identifier: Apache-2.0
"""chslurm for Spack. Put this file into `packages/chslurm/` of a repository of your own (`spack repo create`)."""

from spack.package import *


class Chslurm(Package):
    """Private clusters of virtual machines as ordinary SLURM jobs."""

    license("Apache-2.0")

    # The sources come from a mirror of yours, or by `spack develop`.
    version("0.1.0")

    depends_on("python@3.11:", type=("build", "run"))

    # Python packages come by pip, as two of them are not in Spack: python-hostlist and qemu.qmp. QEMU, passt, iproute2,
    # nftables and e2fsprogs are those of the system, whose kernel they go with.
    def install(self, spec, prefix):
        made = join_path(self.stage.path, "made")
        Executable("misc/install")("--prefix", made, "--python", spec["python"].command.path)
        install_tree(join_path(made, str(self.version)), prefix)
