"""Plans are compared by their decode steps, and the best of those that fit is named."""

from dataclasses import replace

import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.costs.deployment import Deployment
from mimo_v2_flash.costs.efficiency import Efficiency
from mimo_v2_flash.costs.plan_comparison import PLANS, PlanFigures, best_plan, compare_plans
from mimo_v2_flash.costs.step_figures import StepFigures, decode_figures
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.config_files import SMALL

GIGABYTE = 10**9
FIGURES = StepFigures(32, 4, 100, 5.0, 0.01, 0.02, 0.0, Efficiency(0.1, 0.5, "some"))


def test_the_most_tokens_by_the_bound_are_the_best_of_those_that_fit():
    quick, slow, large = (FIGURES._replace(roofline=seconds) for seconds in (0.02, 0.03, 0.01))
    compared = [
        PlanFigures(PLANS[0], 24 * GIGABYTE, slow),
        PlanFigures(PLANS[1], 9 * GIGABYTE, quick),
        PlanFigures(PLANS[2], 24 * GIGABYTE + 1, large),
    ]
    assert [each.fits for each in compared] == [True, True, False]
    assert best_plan(compared) is compared[1]
    # Launches count: with many of them the second is not the best.
    compared[1] = compared[1]._replace(decode=quick._replace(launches=100))
    assert best_plan(compared) is compared[0]
    with pytest.raises(ValueError, match="no plan fits into the memory of its ranks: lower batch"):
        best_plan(compared[2:])


def test_the_plans_are_of_the_published_model_and_have_no_idle_rank():
    for plan in PLANS:
        Deployment(MiMoConfig(), plan, 32).check()
        assert plan.world_size == plan.expert_parallel_size
    assert [(p.expert_parallel_size, p.tensor_parallel_size) for p in PLANS] == [
        (64, 4),
        (32, 4),
        (64, 64),
        (16, 4),
    ]


def test_a_plan_that_does_not_fit_the_model_is_refused_before_anything_is_traced():
    with pytest.raises(
        ValueError, match="tensor_parallel_size = 4: allowed is a divisor of 12 query heads"
    ):
        compare_plans(Deployment(SMALL, ParallelConfig(), 2, 64, 16))


@pytest.mark.nkipy
def test_each_plan_has_the_figures_of_its_ledger():
    pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
    from mimo_v2_flash.costs.ledger import ledger

    plans = ParallelConfig(), ParallelConfig(2, 1, 2)
    deployment = Deployment(SMALL, ParallelConfig(), 2, 64, 16)
    compared = compare_plans(deployment, plans)
    assert [each.plan for each in compared] == list(plans)
    for each in compared:
        whole = replace(deployment, plan=each.plan)
        assert each.decode == decode_figures(ledger(whole), whole)
        assert each.memory > 0
