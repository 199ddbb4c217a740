#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rank 0 sends every worker the same set; each adds who and where it is, and rank 0 prints what came back."""

from mpi4py import MPI

ROOT = 0


def show(items: set[object]) -> str:
    """A set as Python shows it, but in an order that is the same every time: numbers, then words."""
    ordered = sorted(items, key=lambda item: (isinstance(item, str), item))
    return "{" + ", ".join(map(repr, ordered)) + "}"


world = MPI.COMM_WORLD
work = world.bcast({0, 3, 5, 6, 7, 8, 9} if world.rank == ROOT else None, root=ROOT)
work.add(f"rank {world.rank} on {MPI.Get_processor_name()}")
results = world.gather(work, root=ROOT)

if world.rank == ROOT:
    workers = {rank: result for rank, result in enumerate(results) if rank != ROOT}
    print(f"{len(workers)} workers finished, result on rank {ROOT} is:")
    print("{" + ",\n ".join(f"{rank}: {show(result)}" for rank, result in workers.items()) + "}")
