# SPDX-License-Identifier: Apache-2.0
"""The cluster's keys as the hosts find them, in run/ of the job directory, until its end. `keymaking` makes them."""

from __future__ import annotations

import hmac
from pathlib import Path, PurePath

from chslurm.errors import ChslurmError
from chslurm.guest_files import ClusterKeys

_FILES = {"authority": "ca", "private": "id_ed25519", "public": "id_ed25519.pub", "known_hosts": "known_hosts"}
"""Field of ClusterKeys -> file in the folder of keys."""


def make_token(keys: ClusterKeys, purpose: str) -> bytes:
    """Return 16 bytes that only the hosts of this cluster can know, another for each purpose."""
    return hmac.digest(keys.authority.encode(), purpose.encode(), "sha256")[:16]


def render_key_files(keys: ClusterKeys) -> dict[str, str]:
    """Return name and text of each file in the folder of keys."""
    return {name: getattr(keys, field) for field, name in _FILES.items()}


def read_cluster_keys(folder: PurePath) -> ClusterKeys:
    """Read what `render_key_files` said. Raises ChslurmError when a file is missing."""
    try:
        return ClusterKeys(**{field: Path(folder / name).read_text() for field, name in _FILES.items()})
    except OSError as error:
        raise ChslurmError(f"can't read the cluster's keys: {error.filename}: {error.strerror}") from error
