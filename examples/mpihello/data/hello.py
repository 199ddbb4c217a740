#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rank 0 sends every worker the same set; each adds who and where it is, and rank 0 prints what came back."""

from pprint import pprint

from mpi4py import MPI

ROOT = 0

world = MPI.COMM_WORLD
work = world.bcast({0, 3, 5, 6, 7, 8, 9} if world.rank == ROOT else None, root=ROOT)
work.add(f"rank {world.rank} on {MPI.Get_processor_name()}")
results = world.gather(work, root=ROOT)

if world.rank == ROOT:
    workers = {rank: result for rank, result in enumerate(results) if rank != ROOT}
    print(f"{len(workers)} workers finished, result on rank {ROOT} is:")
    pprint(workers)
