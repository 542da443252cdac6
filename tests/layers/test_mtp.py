"""MTP head: the layer that the config says, in the dtype of the model."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher
from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.layers.feed_forward import Dense
from mimo_v2_flash.layers.mtp import MTPHead
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.parallel import SoloGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.batches import metadata_of
from tests.support.mtp_oracle import with_heads
from tests.support.ranks import FIRST
from tests.support.tiny import FULL, SLIDING, Recipe

RECIPE = Recipe(((FULL, "dense"), (SLIDING, "sparse")), hidden=24)
CONTEXT = ParallelContext(ParallelConfig(), SoloGroup())


def test_it_is_a_sliding_dense_layer_with_sinks_and_value_scale():
    config = with_heads(RECIPE).model.config
    head = MTPHead.build(config.mtp_layer, CONTEXT)
    attention = head.layer.attention_block.attention
    assert attention.spec == config.layers[1].attention
    assert (attention.spec.has_sink, attention.spec.value_scale) == (True, 0.707)
    assert isinstance(head.layer.feed_forward_block.feed_forward, Dense)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_its_hidden_states_have_the_models_dtype_whatever_the_ring_has(dtype):
    model, spec = with_heads(RECIPE).model, with_heads(RECIPE).model.config.mtp_layer
    cache = new_cache((spec,), batch_size=1, max_length=9)
    metadata = metadata_of(spec.attention, [0], [4], cache)
    hidden_ND = np.random.default_rng(0).standard_normal((4, 24)).astype(np.float32)
    x_ND = MTPHead.build(spec, CONTEXT)(
        np.arange(4, dtype=np.int32),
        hidden_ND,
        model.weights.embedding_VD,
        metadata,
        FIRST,
        cache.layers[0],
        model.weights.mtp[1],
        dispatcher=AllGatherDispatcher(),
        dtype=np.dtype(dtype).name,
    )
    assert (x_ND.shape, x_ND.dtype) == ((4, 24), dtype)
    assert cache.layers[0].position_Z[:4].tolist() == [0, 1, 2, 3]
