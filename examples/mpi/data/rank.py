# SPDX-License-Identifier: Apache-2.0
"""Say who is there."""

from mpi4py import MPI

world = MPI.COMM_WORLD
places = world.gather(MPI.Get_processor_name())
if world.rank == 0:
    print(f"{world.size} processes on {', '.join(sorted(set(places)))}")
