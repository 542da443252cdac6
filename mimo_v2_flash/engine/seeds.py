"""The seed of a request: the caller's, or a fresh one that all ranks share."""

import secrets

import numpy as np

from mimo_v2_flash.parallel import HostGroup

__all__ = ["resolve_seed"]

BITS = 53  # of a fresh seed: any reader of JSON keeps such an integer exactly


def resolve_seed(seed: int | None, group: HostGroup) -> int:
    """Return `seed`, or if it is None a fresh one, rank 0's on all ranks: a collective call."""
    if seed is not None:
        return int(seed)
    fresh = secrets.randbits(BITS) if group.rank == 0 else 0
    return int(group.all_reduce(np.array([fresh], np.int64))[0])
