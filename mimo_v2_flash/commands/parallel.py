"""The options that say how a model is split over ranks, as several commands offer them."""

import argparse

from mimo_v2_flash.plan import Plan

__all__ = ["add_plan_arguments", "asked_plan"]


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
