# SPDX-License-Identifier: Apache-2.0
"""Private clusters of virtual machines as ordinary SLURM jobs."""

__version__ = "0.1.0"
