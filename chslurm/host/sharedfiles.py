# SPDX-License-Identifier: Apache-2.0
"""What the head wrote, as a host reads it: a shared file system may show something older, so the digest decides."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path, PurePath

from chslurm.errors import ChslurmError
from chslurm.plan import Plan, plan_digest, plan_from_json

_PATIENCE_S = 60.0
"""A host waits so long for what the head wrote: a shared file system may show an old state (NFS: up to 60 s)."""


async def read_shared(path: PurePath, digest: str) -> bytes:
    """Return what the head wrote to `path`, as soon as it has this digest. Raises ChslurmError when it never does."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        found = None
        with suppress(OSError):
            found = Path(path).read_bytes()
        if found is not None and plan_digest(found) == digest:
            return found
        if time.monotonic() > deadline_s:
            state = "not there" if found is None else "not what the head wrote"
            hint = "put the job directory on a file system that all nodes share"
            raise ChslurmError(f"can't use {path}: {state}", hint=hint)
        await asyncio.sleep(0.5)


def read_plan(path: PurePath, *, cluster_id: str, digest: str) -> Plan:
    """Return the plan that the head wrote. Raises ChslurmError when it does not appear, or is of another cluster."""
    plan = plan_from_json(asyncio.run(read_shared(path, digest)))
    if plan.cluster_id != cluster_id:
        raise ChslurmError(f"can't use the plan {path}: it is of cluster {plan.cluster_id}, not {cluster_id}")
    return plan
