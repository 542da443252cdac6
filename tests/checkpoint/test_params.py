"""Tests of the weights' pytrees: fields in the order of the parameter specs, and byte counts."""

import re
from dataclasses import fields, is_dataclass

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.checkpoint import param_specs, params
from mimo_v2_flash.checkpoint.params import (
    AttentionWeights,
    DenseWeights,
    ExpertWeights,
    MoEWeights,
)
from mimo_v2_flash.checkpoint.shard_weights import shard_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.axes import axes_of
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.quantization.fp8 import BlockScaled
from tests.support.tiny import tiny

SPEC = MiMoConfig().layers[1]
RECORDS = [getattr(params, name) for name in params.__all__ if name[0].isupper()]


def field_names(record) -> list[str]:
    return [field.name for field in fields(record)] if is_dataclass(record) else record._fields


def projections(specs) -> list[str]:
    return [re.search(r"(\w+?)(_proj)?\.weight$|(sink)", param.name)[0] for param in specs]


@pytest.mark.parametrize("record", [DenseWeights, ExpertWeights])
def test_gated_networks_are_in_the_order_of_their_names(record):
    names = [f"{field.split('_')[1]}_proj.weight" for field in field_names(record)]
    assert names == projections(param_specs.expert("layer", SPEC, 0))
    assert names == projections(param_specs.dense("layer", SPEC))


def test_attention_is_in_the_order_of_its_names():
    *matrices, sink = AttentionWeights._fields
    fields = [f"{field.split('_')[1]}_proj.weight" for field in matrices]
    assert [*fields, sink.split("_")[0]] == projections(
        param_specs.attention("layer", SPEC.attention, SPEC.hidden_size)
    )


@pytest.mark.parametrize("record", RECORDS)
def test_a_field_names_its_axes_or_is_a_record(record):
    not_tensors = {"attention", "expert_ids", "experts", "feed_forward", "layers", "shard_spec"}
    assert all(field in not_tensors or axes_of(field) for field in field_names(record))


def test_bytes_are_counted_as_stored():
    half = np.zeros((3, 5), ml_dtypes.bfloat16)
    float8 = BlockScaled(np.zeros((130, 5), np.uint8), np.zeros((2, 1), np.float32))
    assert params.nbytes(half) == 30
    assert params.nbytes(float8) == 650 + 8
    experts = ExpertWeights((half, half), (half, half), (float8, float8))
    router, bias = np.zeros((2, 5), np.float32), np.zeros(2, np.float32)
    assert params.nbytes(MoEWeights(router, bias, experts)) == 40 + 8 + 4 * 30 + 2 * 658


def test_an_expert_is_a_record_of_its_three_matrices():
    gate, up, down = (np.arange(4 * n).reshape(4, n, 1) for n in (2, 2, 3))
    stacked, listed = ExpertWeights(gate, up, down), ExpertWeights(*map(tuple, (gate, up, down)))
    assert len(stacked) == len(listed) == len(list(stacked)) == 4
    for number, (one, other) in enumerate(zip(stacked, listed, strict=True)):
        assert isinstance(one, DenseWeights)
        np.testing.assert_equal(one, DenseWeights(gate[number], up[number], down[number]))
        np.testing.assert_equal(other, one)
    assert np.shares_memory(stacked[2].w_up_FD, up)
    np.testing.assert_equal(list(stacked[1:3]), list(stacked)[1:3])
    np.testing.assert_equal(list(ExpertWeights.of(stacked)), list(stacked))
    with pytest.raises(ValueError, match=r"ExpertWeights: \[4, 3, 4\] matrices"):
        ExpertWeights(gate, up[1:], down)


def test_a_record_cannot_be_changed():
    weights = DenseWeights(1, 2, 3)
    with pytest.raises(AttributeError):
        weights.w_up_FD = 4


def test_a_fingerprint_is_of_what_every_rank_has():
    model = tiny()
    whole, parallel = model.weights, ParallelConfig(7, 1, 7)
    shard = shard_weights(whole, model.config, parallel.shard_spec(3))
    assert params.fingerprint(shard) == params.fingerprint(whole)
    layer = whole.layers[1]
    bias_E = layer.feed_forward.bias_E + np.eye(7, dtype=np.float32)[3]
    others = [
        whole._replace(final_norm_D=whole.final_norm_D * 2),
        whole._replace(expert_ids=tuple(range(1, 8))),
        whole._replace(layers=(layer, *whole.layers[1:])),
        whole._replace(
            layers=(
                whole.layers[0],
                layer._replace(feed_forward=layer.feed_forward._replace(bias_E=bias_E)),
                *whole.layers[2:],
            )
        ),
    ]
    assert len({params.fingerprint(weights) for weights in (whole, *others)}) == 5
