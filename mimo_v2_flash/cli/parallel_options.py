"""Parallelism of a command: the options of the parallel sizes, and output from rank 0 alone."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from mimo_v2_flash.parallel import HostGroup, SoloGroup
from mimo_v2_flash.parallel_config import ParallelConfig, ShardSpec

from .option_types import positive

__all__ = [
    "SINGLE_RANK",
    "RankSetup",
    "add_parallel_arguments",
    "only_rank_0_prints",
    "parallel_sizes",
    "parse_parallel_config",
    "rank_setup",
]


class RankSetup(NamedTuple):
    """The process group of this rank, and the parallel sizes of the model."""

    group: HostGroup
    plan: ParallelConfig

    @property
    def shard_spec(self) -> ShardSpec:
        """The weights that this rank holds."""
        return self.plan.shard_spec(self.group.rank)


SINGLE_RANK = RankSetup(SoloGroup(), ParallelConfig())


def add_parallel_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the parallel sizes."""
    group = parser.add_argument_group(
        "parallelism",
        "The world size is data-parallel size x tensor-parallel size; every rank is a process.",
    )
    group.add_argument(
        "--expert-parallel",
        type=positive,
        metavar="P",
        help="Expert-parallel size: how many ranks split the experts (default: the world size).",
    )
    group.add_argument(
        "--tensor-parallel",
        type=positive,
        default=1,
        metavar="T",
        help="Tensor-parallel size: how many ranks split attention heads, dense layers and "
        "vocabulary (default: 1).",
    )
    group.add_argument(
        "--data-parallel",
        type=positive,
        metavar="D",
        help="Data-parallel size: how many shards the batch has (default: under torchrun, running "
        "ranks / tensor-parallel size; else expert-parallel size / tensor-parallel size, at least "
        "1).",
    )


def parse_parallel_config(
    expert_parallel: int | None, tensor_parallel: int, data_parallel: int | None
) -> ParallelConfig:
    """Return the parallel sizes that the options ask for; ValueError names an impossible one.

    Without a data-parallel size the world is the smallest that holds the expert-parallel size.
    """
    if data_parallel is None:
        data_parallel = max((expert_parallel or 1) // max(tensor_parallel, 1), 1)
    experts = {} if expert_parallel is None else {"expert_parallel_size": expert_parallel}
    return ParallelConfig(
        tensor_parallel_size=tensor_parallel, data_parallel_size=data_parallel, **experts
    )


def parallel_sizes(plan: ParallelConfig) -> dict[str, int]:
    """Return the parallel sizes by the keys of `--json`."""
    return {
        "expert_parallel": plan.expert_parallel_size,
        "tensor_parallel": plan.tensor_parallel_size,
        "data_parallel": plan.data_parallel_size,
        "devices": plan.world_size,
    }


def rank_setup(
    group: HostGroup, expert_parallel: int | None, tensor_parallel: int, data_parallel: int | None
) -> RankSetup:
    """Return the setup of a running rank; ValueError if the options need another world size.

    Without a data-parallel size the batch is split over all ranks that do not split heads.
    """
    if data_parallel is None and group.size > 1:
        data_parallel = max(group.size // max(tensor_parallel, 1), 1)
    plan = parse_parallel_config(expert_parallel, tensor_parallel, data_parallel)
    if plan.world_size != group.size:
        raise ValueError(
            f"--expert-parallel {plan.expert_parallel_size} --tensor-parallel "
            f"{plan.tensor_parallel_size} --data-parallel {plan.data_parallel_size} needs world "
            f"size {plan.world_size}, but the world size is {group.size}: start it with torchrun "
            f"--nproc-per-node {plan.world_size}"
        )
    return RankSetup(group, plan)


@contextmanager
def only_rank_0_prints(group: HostGroup) -> Iterator[None]:
    """Discard standard output and standard error of all ranks but rank 0."""
    if group.rank == 0:
        yield
        return
    with Path(os.devnull).open("w") as sink, redirect_stdout(sink), redirect_stderr(sink):
        yield
