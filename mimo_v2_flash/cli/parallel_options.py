"""Ranks as several commands have them: the options of a plan, and who may speak."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from mimo_v2_flash.parallel import HostGroup, SoloGroup
from mimo_v2_flash.parallel_config import ParallelConfig, ShardSpec

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
    """The ranks that share a model, and what they split."""

    group: HostGroup
    plan: ParallelConfig

    @property
    def shard_spec(self) -> ShardSpec:
        """What weights this rank has."""
        return self.plan.shard_spec(self.group.rank)


SINGLE_RANK = RankSetup(SoloGroup(), ParallelConfig())


def add_parallel_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a plan."""
    of = parser.add_argument_group("ranks", "data parallel x tensor parallel, a process on each")
    of.add_argument(
        "--expert-parallel", type=int, metavar="P", help="ranks that share the experts (all ranks)"
    )
    of.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="T", help="ranks that share the heads (1)"
    )
    of.add_argument(
        "--data-parallel", type=int, metavar="D", help="shares of the batch (P / T, or 1)"
    )


def parse_parallel_config(
    expert_parallel: int | None, tensor_parallel: int, data_parallel: int | None
) -> ParallelConfig:
    """Return the plan that options ask for; ValueError names what is impossible.

    Where nothing is said of the batch, there are as few ranks as share the experts.
    """
    if data_parallel is None:
        fewest = (expert_parallel or 1) // max(tensor_parallel, 1)
        data_parallel = max(fewest, 1)
    experts = {} if expert_parallel is None else {"expert_parallel_size": expert_parallel}
    return ParallelConfig(
        tensor_parallel_size=tensor_parallel, data_parallel_size=data_parallel, **experts
    )


def parallel_sizes(plan: ParallelConfig) -> dict[str, int]:
    """Return the sizes of a split, by the keys of `--json`."""
    return {
        "expert_parallel": plan.expert_parallel_size,
        "tensor_parallel": plan.tensor_parallel_size,
        "data_parallel": plan.data_parallel_size,
        "devices": plan.world_size,
    }


def rank_setup(
    group: HostGroup, expert_parallel: int | None, tensor_parallel: int, data_parallel: int | None
) -> RankSetup:
    """Return what the ranks that are running share; ValueError if others were asked for.

    Where nothing is said of the batch, all ranks that do not share heads share it.
    """
    if data_parallel is None and group.size > 1:
        data_parallel = max(group.size // max(tensor_parallel, 1), 1)
    plan = parse_parallel_config(expert_parallel, tensor_parallel, data_parallel)
    if plan.world_size != group.size:
        raise ValueError(
            f"{plan.world_size} ranks are asked for and {group.size} running: "
            f"torchrun --nproc-per-node {plan.world_size} starts them"
        )
    return RankSetup(group, plan)


@contextmanager
def only_rank_0_prints(group: HostGroup) -> Iterator[None]:
    """Let rank 0 write, and nobody else."""
    if group.rank == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
