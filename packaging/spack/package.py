# SPDX-License-Identifier: Apache-2.0
"""chslurm for Spack 1.0 or newer; packaging/README.md of chslurm says how it is used.

The network is needed, or pip's settings for one, unless CHSLURM_WHEELHOUSE names a folder with
all wheels.
"""

import os

from spack_repo.builtin.build_systems.generic import Package

from spack.package import *


class Chslurm(Package):
    """Private clusters of virtual machines as ordinary SLURM jobs: one guest on each node, with
    root inside, a network of its own, and the exit status of the job that ran there."""

    homepage = "https://chslurm.invalid"  # the site's own mirror of the sources
    # An archive of the checkout, in the folder where Spack is called, or in a mirror:
    # git archive --prefix=chslurm-0.1.0/ -o chslurm-0.1.0.tar.gz HEAD
    url = f"file://{os.getcwd()}/chslurm-0.1.0.tar.gz"
    manual_download = True

    license("Apache-2.0")

    version("0.1.0")  # with sha256="..." of the archive, Spack needs no --no-checksum

    depends_on("python@3.11:", type=("build", "run"))

    sanity_check_is_file = [f"bin/{name}" for name in ("chrun", "vcluster", "oneguest", "chslurm")]
    sanity_check_is_dir = ["share/man", "venv"]

    # Python packages come by pip, as msgspec and qemu.qmp are not in Spack. QEMU, passt, iproute2,
    # nftables and e2fsprogs are those of the system, whose kernel they go with.
    def install(self, spec, prefix):
        made = join_path(self.stage.path, "made")
        wheels = os.environ.get("CHSLURM_WHEELHOUSE")
        Executable("misc/install")(
            *("--prefix", made, "--python", spec["python"].command.path),
            *(("--wheelhouse", wheels) if wheels else ()),
        )
        install_tree(join_path(made, str(self.version)), prefix)

    @run_after("install")
    @on_package_attributes(run_tests=True)
    def check_programs(self):
        Executable(self.prefix.bin.chrun)("--version")
        Executable(self.prefix.bin.chslurm)("paths")
