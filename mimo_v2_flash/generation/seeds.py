"""The seed of a generation: the caller's, or a fresh one that all ranks share."""

import secrets

import numpy as np

from mimo_v2_flash.parallel import HostGroup

__all__ = ["check_seed", "resolve_seed"]

BITS = 53  # of a fresh seed: any reader of JSON keeps such an integer exactly


def resolve_seed(seed: int | None, group: HostGroup) -> int:
    """Return `seed`, or a fresh one if it is None: rank 0's on all ranks; a collective call then.

    Raises
    ------
    ValueError
        If the seed is no integer >= 0.
    """
    if seed is not None:
        return check_seed(seed)
    fresh = secrets.randbits(BITS) if group.rank == 0 else 0
    return int(group.all_reduce(np.array([fresh], np.int64))[0])


def check_seed(seed: int) -> int:
    """Return `seed` as an int; ValueError unless it is an integer >= 0."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}, allowed is an integer >= 0, or None for a fresh one")
    return int(seed)
