"""Tests of Reader: weights have the tensors' values and stored dtypes, from either layout."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.load import Reader
from mimo_v2_flash.checkpoint.params import DecoderWeights, ModelWeights
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.quantization import find_format
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.fp8_projections import SCALE
from tests.support.fp8_blocks import quantise_blocks
from tests.support.quantised import SMALL, model_tensors

ALL = tuple(range(5))
FULL = "model.layers.2.self_attn"
K, V = f"{FULL}.k_proj.weight", f"{FULL}.v_proj.weight"


class Tensors(dict):
    """A checkpoint in memory."""

    def file_of(self, name: str) -> Path:
        """Return the path of a file of one tensor."""
        return Path(f"{name}.safetensors")


def read(tensors: dict, experts: tuple[int, ...] = ALL) -> ModelWeights:
    formats = {name: form for name in tensors if (form := find_format(tensors, name))}
    return Reader(Tensors(tensors), formats, SMALL, experts).model()


@pytest.fixture(scope="module", params=[False, True], ids=["split", "fused"])
def checkpoint(request):
    return model_tensors(SMALL, fused=request.param)


@pytest.fixture
def split() -> dict[str, np.ndarray]:
    return model_tensors(SMALL)[0]


def by_name(weights: ModelWeights) -> dict[str, object]:
    """Return every weight by its name in a checkpoint of the split layout."""
    ends = (weights.embedding_VD, weights.final_norm_D, weights.w_logits_VD)
    items = list(zip(param_specs.embedding_norm_head(SMALL), ends, strict=True))
    for index, (spec, layer) in enumerate(zip(SMALL.layers, weights.layers, strict=True)):
        prefix = f"model.layers.{index}"
        norms = layer.attention_norm_D, layer.feed_forward_norm_D
        items += zip(param_specs.layer_norms(prefix, spec), norms, strict=True)
        params = param_specs.attention(prefix, spec.attention, spec.hidden_size)
        items += zip(params, layer.attention[: len(params)], strict=True)
        items += feed_forward(prefix, spec, layer, weights.expert_ids)
    return {name: weight for (name, _), weight in items}


def feed_forward(prefix: str, spec, layer: DecoderWeights, ids: tuple[int, ...]):
    if not spec.num_experts:
        yield from zip(param_specs.dense(prefix, spec), layer.feed_forward, strict=True)
        return
    router, bias, experts = layer.feed_forward
    yield from zip(param_specs.router(prefix, spec), (router, bias), strict=True)
    for number, expert in zip(ids, experts, strict=True):
        yield from zip(param_specs.expert(prefix, spec, number), expert, strict=True)


def value(weight) -> np.ndarray:
    return weight.dequantize() if isinstance(weight, BlockScaled) else weight.astype(np.float32)


def test_every_weight_is_what_was_quantised(checkpoint):
    tensors, truth = checkpoint
    held = by_name(read(tensors))
    assert held.keys() == truth.keys()
    for name, expected in truth.items():
        np.testing.assert_array_equal(value(held[name]), expected, name)


def test_fp8_stays_fp8_and_the_rest_as_it_was_stored(checkpoint):
    tensors, _ = checkpoint
    for name, weight in by_name(read(tensors)).items():
        if name.endswith("_proj.weight") and ".o_proj." not in name:
            assert isinstance(weight, BlockScaled)
            assert (weight.code.dtype, weight.scale.dtype) == (np.uint8, np.float32)
        elif weight.ndim == 2 and param_specs.ROUTER not in name:
            assert weight is tensors[name]
            assert weight.dtype == ml_dtypes.bfloat16
        else:
            assert weight.dtype == np.float32


def test_codes_are_those_of_the_file_and_not_a_copy(split):
    for name, weight in by_name(read(split)).items():
        if isinstance(weight, BlockScaled):
            assert weight.code.ctypes.data == split[name].ctypes.data


def test_only_full_layers_have_k_and_v_on_64_rows(split):
    heights = [[w.block_height for w in layer.attention[:3]] for layer in read(split).layers]
    assert heights == [[128, 64, 64], [128, 128, 128], [128, 64, 64]]


@pytest.mark.parametrize("experts", [(0,), (1, 3), (4,), (0, 2, 3, 4)])
def test_available_experts_are_read_with_their_rows_of_the_router(checkpoint, experts):
    tensors, truth = checkpoint
    others = [f".experts.{number}." for number in ALL if number not in experts]
    available = {n: a for n, a in tensors.items() if not any(other in n for other in others)}
    weights = read(available, experts)
    assert weights.expert_ids == experts
    held = by_name(weights)
    for name, weight in held.items():
        expected = truth[name][list(experts)] if param_specs.ROUTER in name else truth[name]
        np.testing.assert_array_equal(value(weight), expected, name)
    assert len(held) == len(truth) - 2 * 3 * (5 - len(experts))


def test_a_layer_without_sinks_has_no_sink(split):
    full, sliding, _ = (layer.attention.sink_H for layer in read(split).layers)
    np.testing.assert_array_equal(full, np.full(8, NO_SINK, np.float32))
    assert (sliding != NO_SINK).all()


def test_a_weight_without_scales_is_no_fp8_and_the_head_may_be(split):
    head = quantise_blocks(split["lm_head.weight"].astype(np.float32))
    split["lm_head.weight"] = head.code_OI.view(np.uint8)
    split["lm_head.weight_scale_inv"] = head.scale_YX
    np.testing.assert_array_equal(read(split).w_logits_VD.dequantize(), head.truth_OI)


@pytest.mark.parametrize("plain", [(K,), (V,), (K, V)])
def test_k_and_v_need_not_both_be_fp8(split, plain):
    generator = np.random.default_rng(0)
    for name in (K, V):
        w_OI = generator.standard_normal(split[name].shape, np.float32)
        on_plain_grid = quantise_blocks(w_OI)
        split[name] = w_OI if name in plain else on_plain_grid.code_OI.view(np.uint8)
        split[name + SCALE] = on_plain_grid.scale_YX
        if name in plain:
            del split[name + SCALE]
    attention = read(split).layers[2].attention
    for name, weight in ((K, attention.w_k_OD), (V, attention.w_v_OD)):
        assert isinstance(weight, BlockScaled) == (name not in plain)


@pytest.mark.parametrize(
    ("name", "refused"),
    [(K, K), (V, K), (f"{FULL}.q_proj.weight", None), ("model.layers.0.mlp.up_proj.weight", None)],
)
def test_scales_that_do_not_fit_are_refused_by_file_and_tensor(split, name, refused):
    split[name + SCALE] = split[name + SCALE][1:]
    with pytest.raises(
        ValueError, match=rf"^{refused or name}\.safetensors: {refused or name}: .*scales"
    ):
        read(split)


def test_a_fused_weight_that_does_not_fit_is_refused_by_file_and_tensor():
    tensors, _ = model_tensors(SMALL, fused=True)
    name = f"model.layers.1.{param_specs.FUSED}"
    tensors[name + SCALE] = tensors[name + SCALE][1:]
    with pytest.raises(ValueError, match=rf"^{name}\.safetensors: {name}: .*4 ranks of"):
        read(tensors)
