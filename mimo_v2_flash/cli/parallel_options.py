"""Ranks as several commands have them: the options of a plan, and who may speak."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from mimo_v2_flash.parallel import HostGroup, SoloGroup
from mimo_v2_flash.parallel_config import Plan, Share

__all__ = ["ALONE", "Shared", "add_plan_arguments", "asked_plan", "first_alone", "shared_by"]


class Shared(NamedTuple):
    """The ranks that share a model, and what they split."""

    group: HostGroup
    plan: Plan

    @property
    def share(self) -> Share:
        """What weights this rank has."""
        return self.plan.share(self.group.rank)


ALONE = Shared(SoloGroup(), Plan())


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
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


def asked_plan(
    expert_parallel: int | None, tensor_parallel: int, data_parallel: int | None
) -> Plan:
    """Return the plan that options ask for; ValueError names what is impossible.

    Where nothing is said of the batch, there are as few ranks as share the experts.
    """
    if data_parallel is None:
        fewest = (expert_parallel or 1) // max(tensor_parallel, 1)
        data_parallel = max(fewest, 1)
    return Plan(expert_parallel, tensor_parallel, data_parallel)


def shared_by(
    group: HostGroup, expert_parallel: int | None, tensor_parallel: int, data_parallel: int | None
) -> Shared:
    """Return what the ranks that are running share; ValueError if others were asked for.

    Where nothing is said of the batch, all ranks that do not share heads share it.
    """
    if data_parallel is None and group.size > 1:
        data_parallel = max(group.size // max(tensor_parallel, 1), 1)
    plan = asked_plan(expert_parallel, tensor_parallel, data_parallel)
    if plan.world != group.size:
        raise ValueError(
            f"{plan.world} ranks are asked for and {group.size} running: "
            f"torchrun --nproc-per-node {plan.world} starts them"
        )
    return Shared(group, plan)


@contextmanager
def first_alone(group: HostGroup) -> Iterator[None]:
    """Let rank 0 write, and nobody else."""
    if group.rank == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
