"""HostGroup.split: subgroups, each with its own rank numbers."""

import numpy as np
import pytest

from mimo_v2_flash.parallel import ThreadGroup


def test_a_group_splits_into_groups():
    group = ThreadGroup(12)

    def program(rank: int):
        heads = group.split(range(rank - rank % 4, rank - rank % 4 + 4))
        experts = group.split(range(rank % 4, 12, 4))
        pair = heads.split([heads.rank ^ 1, heads.rank][:: 1 if heads.rank % 2 else -1])
        local = np.array([rank])
        return (
            heads,
            heads.rank,
            experts.rank,
            [each.all_gather(local)[:, 0].tolist() for each in (heads, experts, pair)],
        )

    for rank, (heads, in_heads, in_experts, gathered) in enumerate(group.run(program)):
        assert (heads.size, in_heads, in_experts) == (4, rank % 4, rank // 4)
        first = rank - rank % 4
        even = rank - rank % 2
        assert gathered == [[*range(first, first + 4)], [*range(rank % 4, 12, 4)], [even, even + 1]]


def test_a_split_keeps_the_order_of_its_ranks():
    group = ThreadGroup(3)
    gathered = group.run(lambda rank: group.split([2, 0, 1]).all_gather(np.array([rank])).ravel())
    np.testing.assert_array_equal(gathered, [[2, 0, 1]] * 3)


@pytest.mark.parametrize("ranks", [[0], [1, 2], [1, 1], [1, -1], []])
def test_invalid_ranks_are_refused(ranks):
    group = ThreadGroup(2)
    with pytest.raises(ValueError, match="split: expected distinct ranks of 0 to 1, 1 among them"):
        group.run(lambda rank: group.split(ranks) if rank == 1 else None)
