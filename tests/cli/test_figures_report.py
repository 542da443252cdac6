"""The report of the three figures: every number in its place, the note, and plans compared."""

import pytest

from mimo_v2_flash.cli.console import console
from mimo_v2_flash.cli.figures_report import all_figure_numbers, print_figures, report_plans
from mimo_v2_flash.costs.plan_comparison import PLANS, PlanFigures
from mimo_v2_flash.costs.step_figures import decode_figures
from tests.costs.test_step_figures import DEPLOYMENT, LEDGER

KEYS = {
    *("launches", "exchanges_per_layer", "least_ms", "bound_ms", "bound_slow_ms", "expected_ms"),
    *("tokens_per_second", "mean_exchanges_ms", "operations_ms", "efficiency"),
}


def printed(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_every_figure_has_its_place_and_says_what_it_rests_on(capsys):
    out = console()
    out.width = 140
    print_figures(out, LEDGER, DEPLOYMENT)
    stdout = printed(capsys)
    assert "a token 4 4.0 10.00 14.80 26.00 8.63 1.00 57 to 209 2027" in stdout
    assert "drafts, x 2.8 10 4.0 9.00 20.00 48.00 9.17 5.00 74 to 284 4200" in stdout
    assert "prompts 392 6.0 500.00 1828.40" in stdout
    assert "0.2 ms to launch each. slow bound: 3 ms each, with the runtime's barrier" in stdout
    assert "their mean of 62 us. + operations: at 2 us each" in stdout
    assert "expected: fp8 weights by the compiler have reached 7% to 25% of such bounds" in stdout
    assert "4,965,464 machine instructions, estimated; neuronx-cc accepts 5,000,000" in stdout


def test_the_keys_of_json_stay():
    numbers = all_figure_numbers(LEDGER, DEPLOYMENT)
    assert set(numbers) == {"decode", "decode_with_drafts", "prefill"}
    assert set(numbers["decode"]) == KEYS | {"machine_instructions"}
    assert set(numbers["decode_with_drafts"]) == KEYS | {"accepted_tokens"}
    assert set(numbers["prefill"]) == KEYS
    decode = numbers["decode"]
    assert (decode["launches"], decode["exchanges_per_layer"]) == (4, 4)
    assert decode["bound_slow_ms"] - decode["bound_ms"] == pytest.approx(4 * 2.8)
    assert decode["expected_ms"] == pytest.approx([56.6, 209])
    assert decode["tokens_per_second"] == pytest.approx(30e3 / decode["bound_ms"])
    assert (
        all_figure_numbers(LEDGER._replace(drafting=None), DEPLOYMENT)["decode_with_drafts"] is None
    )


def test_plans_are_compared_and_the_best_is_named(capsys):
    figures = decode_figures(LEDGER, DEPLOYMENT)
    few = PlanFigures(PLANS[1], 9 * 10**9, figures._replace(roofline=0.02))
    large = PlanFigures(PLANS[3], 25 * 10**9, figures._replace(roofline=0.001))
    result = report_plans([PlanFigures(PLANS[0], 10**9, figures), few, large])
    stdout = printed(capsys)
    assert "EP64 TP4 4 4.0 10.00 14.80" in stdout
    assert "EP32 TP4: 32 ranks, 9.0 GB on the fullest, it fits" in stdout
    assert "EP16 TP4: 16 ranks, 25.0 GB on the fullest, it does not fit" in stdout
    assert "Best by the bound: EP64 TP4, 2027 tokens/s" in stdout
    assert result.numbers["best"]["expert_parallel"] == 64
    assert [plan["fits"] for plan in result.numbers["plans"]] == [True, True, False]
    assert set(result.numbers["plans"][0]["decode"]) == KEYS
