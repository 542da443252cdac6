"""A trace holds every tensor of a run, in its shape, and shows faults of the run."""

import numpy as np
import pytest

from mimo_v2_flash.kernels.axes import check_shapes
from mimo_v2_flash.layers import forward_batch
from mimo_v2_flash.layers.eager_experts import eager_experts
from mimo_v2_flash.layers.eager_kernels import eager_norm
from mimo_v2_flash.layers.eager_mode import EagerMode
from mimo_v2_flash.tracing.trace_prompt import trace_prompt
from mimo_v2_flash.tracing.trace_tensors import TENSORS, layer_name
from tests.support.poison import poisoned
from tests.support.tiny import random_tokens, running, tiny

MODEL = tiny()
TOKENS = random_tokens(MODEL, 14)


def traced(**options) -> dict[str, np.ndarray]:
    return trace_prompt(MODEL.weights, MODEL.config, TOKENS, **options)


@pytest.fixture(scope="module")
def whole() -> dict[str, np.ndarray]:
    return traced()


def of_layer(index: int, spec) -> list:
    """Return names and tensors of a layer; only an MoE layer has a router and experts."""
    parts = {"moe", "experts"} if not spec.num_experts else set()
    return [(layer_name(index, t), t) for t in TENSORS if t.take and t.part not in parts]


def test_every_tensor_of_the_table_is_there_and_no_other(whole):
    expected = {t.name for t in TENSORS if not t.take}
    for index, spec in enumerate(MODEL.config.layers):
        expected |= {name for name, _ in of_layer(index, spec)}
    assert whole.keys() == expected


def test_shapes_are_what_the_table_says(whole):
    ends = {f"{t.name}_{t.axes}": whole[t.name] for t in TENSORS if not t.take}
    for index, spec in enumerate(MODEL.config.layers):
        named = {f"{t.name}_{t.axes}": whole[name] for name, t in of_layer(index, spec)}
        lengths = check_shapes(f"layer {index}", ends | named)
        attention_spec = spec.attention
        assert (lengths["T"], lengths["D"]) == (len(TOKENS), MODEL.config.hidden_size)
        assert (lengths["H"], lengths["K"]) == (
            attention_spec.num_heads,
            attention_spec.num_kv_heads,
        )
        assert (lengths["Q"], lengths["C"]) == (attention_spec.head_dim, attention_spec.v_head_dim)
        assert lengths.get("E", 0) == spec.num_experts
        assert lengths.get("A", 0) == spec.experts_per_token


def test_its_logits_are_the_models(whole):
    np.testing.assert_array_equal(whole["logits"], running(MODEL).forward([TOKENS])[0])
    np.testing.assert_array_equal(whole["tokens"], TOKENS)
    np.testing.assert_array_equal(whole["positions"], np.arange(len(TOKENS)))
    y_TV = whole["final_norm"] @ np.asarray(MODEL.weights.w_logits_VD, np.float32).T
    np.testing.assert_allclose(y_TV, whole["logits"], atol=1e-5 * np.ptp(y_TV))


def test_a_compute_type_has_its_own_trace(whole):
    trace = traced(compute="bfloat16")
    assert trace.keys() == whole.keys()
    ours = running(MODEL, compute="bfloat16")
    np.testing.assert_array_equal(trace["logits"], ours.forward([TOKENS])[0])
    assert not np.array_equal(trace["logits"], whole["logits"])
    np.testing.assert_array_equal(trace["embedding"], whole["embedding"])


def test_the_residual_stream_adds_up(whole):
    x_TD = whole["embedding"]
    for index, _ in enumerate(MODEL.config.layers):
        x_TD = x_TD + whole[f"layers.{index}.attention.output"]
        x_TD = x_TD + whole[f"layers.{index}.feed_forward.output"]
        np.testing.assert_array_equal(x_TD, whole[f"layers.{index}.output"])


def test_chunks_are_joined(whole):
    chunked = traced(max_step=5)
    assert chunked.keys() == whole.keys()
    for name, tensor in whole.items():
        np.testing.assert_allclose(chunked[name], tensor, atol=1e-4 * max(1, np.ptp(tensor)))


def test_a_cache_that_forgets_is_in_the_trace_of_chunks(monkeypatch, whole):
    right = forward_batch.prior_tokens

    def forgetful(cache, *, kv_length: int, **options):
        return right(cache, kv_length=0, **options)

    monkeypatch.setattr(forward_batch, "prior_tokens", forgetful)
    for name in ("log_sum", "heads"):
        tensor = whole[f"layers.0.attention.{name}"]
        np.testing.assert_array_equal(traced()[f"layers.0.attention.{name}"], tensor)
        chunked = traced(max_step=5)[f"layers.0.attention.{name}"]
        np.testing.assert_allclose(chunked[:5], tensor[:5], atol=1e-5 * np.ptp(tensor))
        assert np.abs(chunked[5:] - tensor[5:]).max() > 1e-2


def test_a_missing_rotation_is_in_the_trace(monkeypatch, whole):
    """The trace holds the queries that attention received, not queries rotated for the trace."""
    monkeypatch.setattr(EagerMode, "rotate", staticmethod(lambda x_NHQ, *_: x_NHQ))
    unrotated = traced()
    for part in ("query", "key"):
        rotated = unrotated[f"layers.0.attention.{part}_rotated"]
        np.testing.assert_array_equal(rotated, unrotated[f"layers.0.attention.{part}"])
        assert np.abs(rotated - whole[f"layers.0.attention.{part}_rotated"]).max() > 1e-2


def test_a_wrong_expert_is_in_the_trace(monkeypatch, whole):
    wrong = staticmethod(lambda *args: 2 * eager_experts(*args))
    monkeypatch.setattr(EagerMode, "expert_fn", wrong)
    name = "layers.1.feed_forward.expert_output"
    np.testing.assert_allclose(traced()[name], 2 * whole[name], rtol=1e-6)


def test_a_wrong_norm_is_in_the_trace(monkeypatch, whole):
    wrong = staticmethod(lambda *args, **kwargs: 2 * eager_norm(*args, **kwargs))
    monkeypatch.setattr(EagerMode, "norm", wrong)
    name = "layers.0.attention.norm"
    np.testing.assert_array_equal(traced()[name], 2 * whole[name])


def test_a_model_with_nan_has_a_trace_that_shows_where(whole):
    model = poisoned(MODEL, "w_o_DI", layer=2)
    trace = trace_prompt(model.weights, model.config, TOKENS)
    assert trace.keys() == whole.keys()
    names = [name for name, tensor in trace.items() if np.isnan(tensor).any()]
    assert names[0].startswith("layers.2.")
    assert {"final_norm", "logits"} <= set(names)
