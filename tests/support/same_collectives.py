"""Bit-exact comparison of a group's collectives with those of a ThreadGroup, on drawn tensors."""

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.parallel import HostGroup, ThreadGroup

COLLECTIVES = ["all_to_all", "all_gather", "reduce_scatter", "all_reduce", "ragged_all_to_all"]
MESSAGES = [b"", b"\0", b"a plan", bytes(range(256)) * 1000]
DTYPES = [np.float32, ml_dtypes.bfloat16, np.int32, np.uint8]
SHAPES = [(0,), (1,), (3, 5), (2, 0, 3), (7, 64), (4, 5000), (2, 40_000)]


def arguments(collective: str, dtype, shape: tuple[int, ...], size: int, seed: int) -> tuple:
    """Return the arguments of a collective on the rank that `seed` belongs to."""
    random = np.random.default_rng(seed)
    if collective == "ragged_all_to_all":
        count_P = random.integers(0, 4, size)
        shape = (count_P.sum(), *(width or 1 for width in shape[1:]))
        return drawn(random, dtype, shape), count_P
    whole = collective in {"all_gather", "all_reduce"}
    return (drawn(random, dtype, shape if whole else (size, *shape)),)


def drawn(random, dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers of many sizes, so that another order of summation changes the sum."""
    return (random.standard_normal(shape) * 10.0 ** random.integers(0, 3, shape)).astype(dtype)


def same_as_threads(group: HostGroup) -> None:
    """Assert that the group, its halves and its reverse compute what a ThreadGroup computes.

    Every process draws the same examples, and so knows the arguments of the other ranks.
    """
    size, rank = group.size, group.rank
    half = range(size // 2) if rank < size // 2 else range(size // 2, size)
    groups = [group, group.split(half), group.split(range(size)[::-1])]

    for message in MESSAGES:
        for each in groups:
            local = message if each.rank == 0 else b"another"
            assert each.broadcast(local) == message

    @settings(deadline=None, derandomize=True, database=None, max_examples=40)
    @given(
        st.sampled_from(groups),
        st.sampled_from(COLLECTIVES),
        st.sampled_from(DTYPES),
        st.sampled_from(SHAPES),
        st.integers(0, 1000),
    )
    def check(group, collective, dtype, shape, seed):
        def program(at: int):
            x = arguments(collective, dtype, shape, group.size, 1000 * seed + at)
            return getattr(threads, collective)(*x)

        threads = ThreadGroup(group.size)
        expected = threads.run(program)[group.rank]
        x = arguments(collective, dtype, shape, group.size, 1000 * seed + group.rank)
        actual = getattr(group, collective)(*x)
        if collective == "ragged_all_to_all":
            np.testing.assert_array_equal(actual[1], expected[1])
            actual, expected = actual[0], expected[0]
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        assert actual.tobytes() == expected.tobytes()

    check()
