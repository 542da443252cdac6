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
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.axes import axes_of
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.quantization.fp8 import BlockScaled, MappedBlockScaled
from tests.support.tiny import Recipe, tiny

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
    not_tensors = {"attention", "expert_ids", "experts", "feed_forward", "layers", "prepared"}
    not_tensors |= {"shard_spec", "mtp", "layer"}
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


def digests(weights) -> dict[str, str]:
    return {name: digest for name, (_, digest) in params.fingerprint(weights).items()}


def with_layer(weights, index: int, change):
    layers = list(weights.layers)
    layers[index] = change(layers[index])
    return weights._replace(layers=tuple(layers))


def test_ranks_with_one_slice_have_one_fingerprint():
    """What every rank holds whole has no key; slices are compared with equal slices alone."""
    model = tiny(Recipe(experts=8, dense_width=32))
    plan = ParallelConfig(2, 2, 2)
    shards = [
        shard_weights(model.weights, model.config, plan.shard_spec(rank)) for rank in range(4)
    ]
    first, second, third, _ = map(params.fingerprint, shards)
    assert first["weights"] == second["weights"]
    assert first["weights"][0] is None
    assert (first["heads"][0], second["heads"][0]) == ((0, 2), (1, 2))
    assert first == third
    assert first["heads"][1] != second["heads"][1]
    assert first["experts"][1] != second["experts"][1]


def doubled(w_OI):
    return np.asarray(w_OI) * np.float32(2)


CHANGES = [  # another weight; the digest that tells
    (lambda w: w._replace(final_norm_D=w.final_norm_D * 2), "weights"),
    (lambda w: w._replace(expert_ids=tuple(range(1, 8))), "weights"),
    (lambda w: w._replace(prepared=("fp8", "cpu")), "weights"),
    (lambda w: w._replace(prepared=("fp8", "trainium2")), "weights"),
    (lambda w: w._replace(embedding_VD=doubled(w.embedding_VD)), "weights"),
    (lambda w: w._replace(w_logits_VD=np.zeros_like(w.w_logits_VD)), "heads"),
    (lambda w: with_layer(w, 0, lambda _: w.layers[2]), "weights"),
    (
        lambda w: with_layer(
            w,
            1,
            lambda layer: layer._replace(
                attention=layer.attention._replace(w_q_OD=doubled(layer.attention.w_q_OD))
            ),
        ),
        "heads",
    ),
    (
        lambda w: with_layer(
            w,
            1,
            lambda layer: layer._replace(
                attention=layer.attention._replace(
                    w_q_OD=np.asarray(layer.attention.w_q_OD, ml_dtypes.bfloat16)
                )
            ),
        ),
        "weights",
    ),
    (
        lambda w: with_layer(
            w,
            1,
            lambda layer: layer._replace(
                feed_forward=layer.feed_forward._replace(
                    experts=ExpertWeights.of(map(doubled, e) for e in layer.feed_forward.experts)
                )
            ),
        ),
        "experts",
    ),
]


@pytest.mark.parametrize(("change", "name"), CHANGES)
def test_other_weights_have_another_fingerprint(change, name):
    weights = tiny().weights
    expected, actual = digests(weights), digests(change(weights))
    assert actual[name] != expected[name]


def test_a_fingerprint_reads_little_and_no_scale():
    """A mapped file of gigabytes stays on disk: of a matrix, a part of its middle row."""
    read = []

    class Code(np.ndarray):
        def __getitem__(self, index):
            part = np.asarray(super().__getitem__(index))
            read.append(part.nbytes)
            return part

    code = np.zeros((256, 4096), np.uint8).view(Code)
    weight = MappedBlockScaled.map("file: w", code, np.full((2, 32), np.nan, np.float32))
    model = tiny()
    weights = with_layer(
        model.weights,
        1,
        lambda layer: layer._replace(attention=layer.attention._replace(w_q_OD=weight)),
    )
    first = digests(weights)
    assert read == [4096]
    code.view(np.ndarray)[128, 2048] = 1
    assert digests(weights)["heads"] != first["heads"]
