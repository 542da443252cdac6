"""Recomputed tensors agree with the run; names have an order; docs/tracing.md lists them all."""

from pathlib import Path

import numpy as np
import pytest

from mimo_v2_flash.tracing.trace_prompt import trace_prompt
from mimo_v2_flash.tracing.trace_tensors import (
    EXPERT_IDS,
    PER_EXPERT,
    TENSORS,
    layer_name,
    sort_key,
    split_name,
)
from tests.support.tiny import Tiny, random_tokens, tiny

ROOT = Path(__file__).parents[2]
MODEL: Tiny = tiny()
TOKENS = random_tokens(MODEL, 14)
LAYERS = list(enumerate(MODEL.config.layers))


@pytest.fixture(scope="module", params=[512, 5], ids=["at once", "in chunks"])
def trace(request):
    return trace_prompt(MODEL.weights, MODEL.config, TOKENS, max_step=request.param)


def assert_close(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize(("index", "spec"), LAYERS)
def test_the_log_sum_gives_the_weights_that_the_run_averaged_values_with(trace, index, spec):
    """The heads are the sum over visible keys of exp(score - log_sum) x value."""
    q, k, v, log_sum, heads = (
        trace[f"layers.{index}.attention.{name}"]
        for name in ("query_rotated", "key_rotated", "value", "log_sum", "heads")
    )
    age_TS = np.subtract.outer(np.arange(len(q)), np.arange(len(q)))
    visible_TS = (age_TS >= 0) & (age_TS < spec.attention.window)
    group = spec.attention.num_heads // spec.attention.num_kv_heads
    for head in range(spec.attention.num_heads):
        score_TS = q[:, head] @ k[:, head // group].T / np.sqrt(spec.attention.head_dim)
        weight_TS = np.exp(score_TS - log_sum[:, head, None]) * visible_TS
        assert_close(weight_TS @ v[:, head // group], heads[:, head])


def test_weighted_expert_outputs_are_the_mixture(trace):
    for index, spec in LAYERS:
        if not spec.num_experts:
            continue
        weight_TA, output_TAD, y_TD = (
            trace[f"layers.{index}.feed_forward.{name}"]
            for name in ("expert_weight", "expert_output", "output")
        )
        assert_close(np.sum(weight_TA[..., None] * output_TAD, axis=1), y_TD)


def test_scores_and_bias_give_the_choice_and_the_weights(trace):
    for index, spec in LAYERS:
        if not spec.num_experts:
            continue
        score_TE, expert_TA, weight_TA = (
            trace[f"layers.{index}.feed_forward.{name}"]
            for name in ("router_score", "expert", "expert_weight")
        )
        biased_TE = score_TE + MODEL.weights.layers[index].feed_forward.bias_E
        best_TA = np.argsort(-biased_TE, axis=1)[:, : spec.experts_per_token]
        np.testing.assert_array_equal(expert_TA, best_TA)
        chosen_TA = np.take_along_axis(score_TE, expert_TA, axis=1)
        assert_close(
            weight_TA / spec.routed_scaling_factor, chosen_TA / chosen_TA.sum(1, keepdims=True)
        )


def test_names_are_unique_and_stand_in_the_order_of_computing():
    names = [name for name, *_ in TENSORS]
    assert len(set(names)) == len(names)
    ordered = [
        "tokens", "positions", "embedding", "layers.0.attention.norm", "layers.0.attention.value",
        "layers.0.attention.log_sum", "layers.0.output", "layers.2.feed_forward.expert",
        "layers.10.attention.norm", "final_norm", "logits",
    ]  # fmt: skip
    assert sorted(set(ordered), key=sort_key) == ordered


@pytest.mark.parametrize(
    "name", ["query", "attention.query", "layers.0.logits", "layers.x.output", "layers.0.query", ""]
)
def test_other_names_have_no_place(name):
    assert sort_key(name) is None


def test_a_name_is_a_layer_and_the_rest():
    assert split_name("layers.12.attention.query") == ("layers.12.", "attention.query")
    assert split_name("logits") == ("", "logits")
    assert layer_name(12, TENSORS[-3]) == "layers.12.output"


def test_per_expert_tensors_are_those_with_the_axis():
    assert EXPERT_IDS in PER_EXPERT
    assert {name for name, axes, *_ in TENSORS if "A" in axes} == set(PER_EXPERT)


def test_the_document_has_this_table():
    rows = [
        line.split("|")[1:-1]
        for line in (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    documented = [tuple(cell.strip().strip("`") for cell in row) for row in rows if len(row) == 4]
    expected = [
        (layer_name("N", t) if t.take else t.name, t.axes, t.meaning, t.recomputed_from)
        for t in TENSORS
    ]
    assert documented == expected
