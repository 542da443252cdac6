"""DeviceGroup: collectives of a traced program equal those of threads, on every rank."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel.device_group import DeviceGroup
from tests.support.agreement import assert_agrees

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax").config.update("jax_num_cpu_devices", 32)
pytestmark = pytest.mark.nkipy

HALVES, ODD_AND_EVEN = ((0, 1), (2, 3)), ((0, 2), (1, 3))
REPLICA_GROUPS = [HALVES, ODD_AND_EVEN, (tuple(range(4)),), (tuple(range(32)),)]


@dataclass(frozen=True)
class AllCollectives:
    """A kernel that calls every collective of a group."""

    group: Any

    def __call__(self, x_PMD, count_ND):
        """Return the results, in order."""
        exact = self.group.all_to_all(x_PMD), self.group.all_gather(count_ND)
        return *exact, self.group.reduce_scatter(x_PMD), self.group.all_reduce(x_PMD)


@pytest.mark.parametrize(
    "replica_groups", REPLICA_GROUPS, ids=["halves", "odd and even", "4", "32"]
)
def test_every_rank_gets_what_a_thread_would(replica_groups):
    from mimo_v2_flash.execution.xla import XlaBackend

    world = ThreadGroup(sum(map(len, replica_groups)))
    backend = XlaBackend(world)

    def compare(rank: int) -> None:
        (ranks,) = (group for group in replica_groups if rank in group)
        generator = np.random.default_rng(rank)
        x_PMD = generator.standard_normal((len(ranks), 3, 2)).astype(np.float32)
        args = x_PMD, generator.integers(0, 99, (3, 2)).astype(np.int32)
        expected = AllCollectives(world.split(ranks))(*args)
        actual = backend.compile(AllCollectives(DeviceGroup(replica_groups)))(*args)
        for index, (output, reference) in enumerate(zip(actual, expected, strict=True)):
            assert output.dtype == reference.dtype
            if index < 2:
                np.testing.assert_array_equal(np.asarray(output), reference)
            else:
                assert_agrees(np.asarray(output), reference)

    world.run(compare)
    assert len(backend.programs) == 1


def test_one_program_is_for_every_rank():
    assert DeviceGroup(HALVES) == DeviceGroup(((0, 1), (2, 3)))
    assert DeviceGroup(HALVES).size == DeviceGroup(ODD_AND_EVEN).size == 2
    assert hash(DeviceGroup(HALVES)) != hash(DeviceGroup(ODD_AND_EVEN))
    assert not hasattr(DeviceGroup(HALVES), "rank")
