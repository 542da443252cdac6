"""seeds: a fresh seed differs each time and is rank 0's on all ranks."""

import json

import numpy as np
import pytest

from mimo_v2_flash.engine.seeds import resolve_seed
from mimo_v2_flash.parallel import ALONE, ThreadGroup


@pytest.mark.parametrize("seed", [0, 7, np.int64(7), 2**70])
def test_a_seed_is_itself(seed):
    assert resolve_seed(seed, ALONE) == seed
    assert type(resolve_seed(seed, ALONE)) is int


def test_fresh_seeds_differ_and_pass_through_any_json():
    seeds = {resolve_seed(None, ALONE) for _ in range(50)}
    assert len(seeds) == 50
    assert all(float(seed) == seed >= 0 for seed in seeds)
    assert json.loads(json.dumps([*seeds])) == [*seeds]


def test_a_fresh_seed_is_the_same_on_all_ranks():
    group = ThreadGroup(3)
    seeds = [group.run(lambda _: resolve_seed(None, group)) for _ in range(2)]
    assert [len({*ranks}) for ranks in seeds] == [1, 1]
    assert seeds[0] != seeds[1]
