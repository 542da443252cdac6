"""A group's exchanges beside those of as many threads, to the bit, on drawn tensors."""

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.parallel import HostGroup, ThreadGroup

EXCHANGES = ["all_to_all", "all_gather", "reduce_scatter", "all_reduce", "ragged_all_to_all"]
DTYPES = [np.float32, ml_dtypes.bfloat16, np.int32, np.uint8]
SHAPES = [(0,), (1,), (3, 5), (2, 0, 3), (7, 64), (4, 5000), (2, 40_000)]


def brought(exchange: str, dtype, shape: tuple[int, ...], size: int, seed: int) -> tuple:
    """Return what the rank that `seed` belongs to gives to an exchange."""
    random = np.random.default_rng(seed)
    if exchange == "ragged_all_to_all":
        count_P = random.integers(0, 4, size)
        shape = (count_P.sum(), *(width or 1 for width in shape[1:]))
        return drawn(random, dtype, shape), count_P
    whole = exchange in {"all_gather", "all_reduce"}
    return (drawn(random, dtype, shape if whole else (size, *shape)),)


def drawn(random, dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers of many sizes, so that another order of adding gives other sums."""
    return (random.standard_normal(shape) * 10.0 ** random.integers(0, 3, shape)).astype(dtype)


def same_as_threads(group: HostGroup) -> None:
    """Raise AssertionError unless the group, its halves and itself reversed do as threads do.

    Every process draws the same examples, and knows what the others bring.
    """
    size, rank = group.size, group.rank
    half = range(size // 2) if rank < size // 2 else range(size // 2, size)
    groups = [group, group.split(half), group.split(range(size)[::-1])]

    @settings(deadline=None, derandomize=True, database=None, max_examples=40)
    @given(
        st.sampled_from(groups),
        st.sampled_from(EXCHANGES),
        st.sampled_from(DTYPES),
        st.sampled_from(SHAPES),
        st.integers(0, 1000),
    )
    def check(group, exchange, dtype, shape, seed):
        def program(at: int):
            x = brought(exchange, dtype, shape, group.size, 1000 * seed + at)
            return getattr(threads, exchange)(*x)

        threads = ThreadGroup(group.size)
        expected = threads.run(program)[group.rank]
        x = brought(exchange, dtype, shape, group.size, 1000 * seed + group.rank)
        actual = getattr(group, exchange)(*x)
        if exchange == "ragged_all_to_all":
            np.testing.assert_array_equal(actual[1], expected[1])
            actual, expected = actual[0], expected[0]
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        assert actual.tobytes() == expected.tobytes()

    check()
