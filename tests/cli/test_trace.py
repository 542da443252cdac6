"""A trace holds every tensor of a run, in its shape, and shows faults of the run."""

import numpy as np
import pytest

import run_example
from mimo_v2_flash.cli import trace
from mimo_v2_flash.cli.trace_file import open_trace
from mimo_v2_flash.cli.trace_tensors import TENSORS, layer_name
from mimo_v2_flash.kernels.axes import check_shapes
from mimo_v2_flash.layers import attention, decoder, forward_batch, grouped_experts
from mimo_v2_flash.text.tokenizer import load_tokenizer, prompt_tokens
from tests.support.tiny import random_tokens, running, tiny
from tests.support.tiny_text import CONTEXT, write_text_checkpoint

MODEL = tiny()
TOKENS = random_tokens(MODEL, 14)


def traced(**options) -> dict[str, np.ndarray]:
    return trace.trace_prompt(MODEL.weights, MODEL.config, TOKENS, **options)


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
    monkeypatch.setattr(attention, "rope_partial", lambda x_NHQ, *_: x_NHQ)
    unrotated = traced()
    for part in ("query", "key"):
        rotated = unrotated[f"layers.0.attention.{part}_rotated"]
        np.testing.assert_array_equal(rotated, unrotated[f"layers.0.attention.{part}"])
        assert np.abs(rotated - whole[f"layers.0.attention.{part}_rotated"]).max() > 1e-2


def test_a_wrong_expert_is_in_the_trace(monkeypatch, whole):
    right = grouped_experts.moe_expert
    monkeypatch.setattr(grouped_experts, "moe_expert", lambda *args: 2 * right(*args))
    name = "layers.1.feed_forward.expert_output"
    np.testing.assert_allclose(traced()[name], 2 * whole[name], rtol=1e-6)


def test_a_wrong_norm_is_in_the_trace(monkeypatch, whole):
    right = decoder.rmsnorm
    monkeypatch.setattr(decoder, "rmsnorm", lambda *args, **kwargs: 2 * right(*args, **kwargs))
    name = "layers.0.attention.norm"
    np.testing.assert_array_equal(traced()[name], 2 * whole[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("hub")).folder


def run(folder, output, *options: str) -> int:
    args = ["--mode", "trace", "--model", str(folder), "--output", str(output)]
    return run_example.main([*args, *options])


def test_the_commands_write_and_compare_files(folder, tmp_path, capsys):
    path, chunked, other = (tmp_path / f"{name}.safetensors" for name in "abc")
    assert run(folder, path, "--tokens", "3", "1", "4") == 0
    assert "tensors of 3 tokens" in capsys.readouterr().out
    with open_trace(path) as file:
        assert file.integers("tokens").tolist() == [3, 1, 4]
        assert file["layers.1.attention.query"].dtype == np.float32
    assert run(folder, chunked, "--tokens", "3", "1", "4", "--max-step", "2") == 0
    assert run(folder, other, "--tokens", "3", "1", "5") == 0
    compared = ["--mode", "compare", str(path)]
    assert run_example.main([*compared, str(chunked)]) == 0
    assert run_example.main([*compared, str(chunked), "--tolerance", "0"]) == 1
    assert run_example.main([*compared, str(other)]) == 2
    assert "tokens differ at index 2: 4 in" in capsys.readouterr().err


def test_a_text_is_traced_as_its_tokens(folder, tmp_path):
    path = tmp_path / "trace.safetensors"
    assert run(folder, path, "--prompt", "the thin thing") == 0
    with open_trace(path) as file:
        expected = prompt_tokens(load_tokenizer(folder), "the thin thing")
        assert file.integers("tokens").tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokens", "1000000"), "1000000"),
        (("--tokens", "3", "--max-step", "0"), "max_step must be at least 1"),
        (("--tokens", *["3"] * (CONTEXT + 1)), f"must be at most {CONTEXT}, got {CONTEXT + 1}"),
    ],
)  # fmt: skip
def test_what_cannot_be_traced_is_refused_by_name(folder, tmp_path, capsys, options, message):
    assert run(folder, tmp_path / "trace.safetensors", *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused_before_anything_is_computed(
    folder, tmp_path, capsys
):
    assert run(folder, tmp_path / "nowhere" / "t.safetensors", "--tokens", "3") == 2
    assert "nowhere/t.safetensors: no such folder" in capsys.readouterr().err
