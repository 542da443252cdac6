"""Parallel sizes compared: what a decode step takes with each, and which gives the most tokens."""

from dataclasses import replace
from typing import NamedTuple

from mimo_v2_flash.parallel_config import ParallelConfig

from .deployment import Deployment
from .device_memory import NEURON_CORE
from .devices import fullest_device
from .ledger import ledger
from .step_figures import StepFigures, decode_figures
from .step_programs import decode_sizes

__all__ = ["PLANS", "PlanFigures", "best_plan", "compare_plans"]

PLANS = (
    ParallelConfig(64, 4, 16),
    ParallelConfig(32, 4, 8),
    ParallelConfig(64, 64, 1),
    ParallelConfig(16, 4, 4),
)
"""Expert, tensor and data parallel sizes, of 64, 32 and 16 ranks of a trn2.48xlarge."""


class PlanFigures(NamedTuple):
    """A plan, the bytes of its fullest rank, and the figures of its decode step."""

    plan: ParallelConfig
    memory: int
    decode: StepFigures

    @property
    def fits(self) -> bool:
        """Whether every rank fits into a logical NeuronCore of two physical ones."""
        return self.memory <= NEURON_CORE[2]


def compare_plans(
    deployment: Deployment, plans: tuple[ParallelConfig, ...] = PLANS
) -> list[PlanFigures]:
    """Return the figures of `deployment` with each of `plans`, in their order.

    Raises
    ------
    ValueError
        If a plan does not fit the model.
    """
    deployments = [replace(deployment, plan=plan) for plan in plans]
    for each in deployments:  # before minutes of tracing
        each.check()
    return [
        PlanFigures(
            each.plan,
            fullest_device(each.config, each.plan, each.workload).total,
            decode_figures(ledger(each, decode_sizes), each),
        )
        for each in deployments
    ]


def best_plan(compared: list[PlanFigures]) -> PlanFigures:
    """Return the plan with the most tokens per second by the bound, of those that fit.

    Raises
    ------
    ValueError
        If none fits into the memory of its ranks.
    """
    fitting = [each for each in compared if each.fits]
    if not fitting:
        raise ValueError("no plan fits into the memory of its ranks: lower batch_size or context")
    return max(fitting, key=lambda each: each.decode.tokens_per_second)
