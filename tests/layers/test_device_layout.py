"""Tests of to_device_layout: stacked experts and Trainium2's FP8, of equal values."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.checkpoint.params import ExpertWeights, MoEWeights
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.layers.device_layout import to_device_layout
from mimo_v2_flash.quantization import get_format
from mimo_v2_flash.quantization.fp8 import BlockScaled
from tests.support.tiny import tiny

STORED = random_weights(tiny().config, seed=0)  # FP8, one array per expert
ON_DEVICE = to_device_layout(STORED)


def matrices(weights):
    """Yield every matrix, one per expert."""
    for layer in weights.layers:
        yield from layer.attention[:4]
        if not isinstance(layer.feed_forward, MoEWeights):
            yield from layer.feed_forward
            continue
        for stack in layer.feed_forward.experts.columns:
            yield from (stack[expert] for expert in range(len(stack)))


def test_every_matrix_has_its_value_but_for_codes_that_halving_rounds():
    for before, after in zip(matrices(STORED), matrices(ON_DEVICE), strict=True):
        if not isinstance(before, BlockScaled):
            assert after is before
            continue
        assert after.code.dtype == ml_dtypes.float8_e4m3
        assert np.isfinite(after.code.astype(np.float32)).all()
        rows, columns = after.shape
        scale = np.repeat(np.repeat(after.scale, 128, 0)[:rows], 128, 1)[:, :columns]
        value = after.code.astype(np.float32) * scale
        step = float(np.max(after.scale)) * 2.0**-10
        np.testing.assert_allclose(value, before.dequantize(), rtol=0, atol=step)


def test_experts_are_one_stack():
    for before, after in zip(STORED.layers, ON_DEVICE.layers, strict=True):
        if isinstance(before.feed_forward, MoEWeights):
            assert isinstance(before.feed_forward.experts.w_gate_eFD, tuple)
            for stack in after.feed_forward.experts.columns:
                assert stack.shape[0] == len(stack) == 7
                assert len(stack.shape) == 3


def test_weights_for_trainium_keep_their_codes_and_scales():
    encoding = Encoding("fp8", "trainium2")
    layer = STORED.layers[0]
    code, scale = encoding.encode("q", layer.attention.w_q_OD)
    prepared = layer._replace(attention=layer.attention._replace(w_q_OD=BlockScaled(code, scale)))
    (after,) = to_device_layout(STORED._replace(layers=(prepared,))).layers
    np.testing.assert_array_equal(after.attention.w_q_OD.code.view(np.uint8), code)
    np.testing.assert_array_equal(after.attention.w_q_OD.scale, scale)


def test_it_is_done_once():
    again = to_device_layout(ON_DEVICE)
    for before, after in zip(matrices(ON_DEVICE), matrices(again), strict=True):
        np.testing.assert_array_equal(_bytes(before), _bytes(after))


def test_numpy_computes_with_them_as_with_the_stored_ones():
    x_ND = np.ones((2, tiny().config.hidden_size), np.float32)
    before, after = (w.layers[0].attention.w_q_OD for w in (STORED, ON_DEVICE))
    np.testing.assert_allclose(ops.matmul(x_ND, after), ops.matmul(x_ND, before), atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_plain_weights_are_stacked_as_they_are(dtype):
    layer = tiny().weights.layers[1]
    stacks = layer.feed_forward.experts
    experts = ExpertWeights(
        *(tuple(np.asarray(s[e], dtype) for e in range(7)) for s in stacks.columns)
    )
    mixture = layer.feed_forward._replace(experts=experts)
    weights = tiny().weights._replace(layers=(layer._replace(feed_forward=mixture),))
    stacked = to_device_layout(weights).layers[0].feed_forward.experts
    for stack, arrays in zip(stacked.columns, experts.columns, strict=True):
        np.testing.assert_array_equal(stack, np.stack(arrays))
        assert stack.dtype == dtype


def _bytes(weight):
    return weight.code.view(np.uint8) if isinstance(weight, BlockScaled) else weight


def test_a_quantized_embedding_is_a_table_and_a_quantized_head_is_laid_out():
    table_VD = np.random.default_rng(0).standard_normal((8, 64), np.float32)
    quantized = get_format("q8_0").quantize(table_VD)
    head = BlockScaled.quantize(table_VD)
    weights = to_device_layout(STORED._replace(embedding_VD=quantized, w_logits_VD=head))
    np.testing.assert_array_equal(weights.embedding_VD, quantized.dequantize())
    assert weights.w_logits_VD.code.dtype == ml_dtypes.float8_e4m3
