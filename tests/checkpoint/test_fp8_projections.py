"""Tests of joined_projections: which of q, k and v are read together, from shapes alone."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.fp8 import CrossingKV, FusedQKV, crossing_keys, joined_projections
from mimo_v2_flash.checkpoint.param_specs import FUSED, SCALE
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.meta import hub_tensors
from mimo_v2_flash.parallel_config import ShardSpec
from tests.support.quantised import SMALL, model_tensors

PREFIX = "model.layers.2"
K, V = (f"{PREFIX}.self_attn.{letter}_proj.weight" for letter in "kv")


def joined(index: int, config: MiMoConfig, tensors, **options):
    return joined_projections(
        f"model.layers.{index}",
        config.layers[index],
        config,
        tensors,
        lambda name: f"file: {name}",
        **options,
    )


def test_of_the_real_model_nine_full_layers_have_crossing_scales():
    """Source: the hub's index has 8 scale rows for K of 768 rows, and 4 for V of 512."""
    config = MiMoConfig()
    tensors = hub_tensors(config)
    layers = [joined(index, config, tensors) for index in range(48)]
    full = [index for index, pattern in enumerate(config.hybrid_layer_pattern) if not pattern]
    assert [index for index, layer in enumerate(layers) if layer] == full
    assert len(full) == 9
    assert crossing_keys(config) == {layers[index].k for index in full}
    for index in full:
        k, v, heads = layers[index]
        assert (tensors[k].shape, tensors[v].shape) == ((768, 4096), (512, 4096))
        assert (tensors[k + SCALE].shape, tensors[v + SCALE].shape) == ((8, 32), (4, 32))
        assert heads == (64, 4, 192, 128)


@pytest.mark.parametrize("index", range(3))
def test_a_fused_weight_is_rank_after_rank(index):
    tensors = model_tensors(SMALL, fused=True)[0]
    layer = joined(index, SMALL, tensors)
    assert isinstance(layer, FusedQKV)
    assert (layer.qkv, layer.ranks) == (f"model.layers.{index}.{FUSED}", 4)


def test_full_layers_cross_and_sliding_ones_do_not():
    layers = [joined(index, SMALL, model_tensors(SMALL)[0]) for index in range(3)]
    assert layers[1] is None
    for index in (0, 2):
        assert isinstance(layers[index], CrossingKV)
        assert layers[index].k == f"model.layers.{index}.self_attn.k_proj.weight"


@pytest.mark.parametrize("names", [(K,), (V,), (K, V)])
def test_what_has_no_scales_crosses_nothing(names):
    tensors = dict(model_tensors(SMALL)[0])
    for name in names:
        del tensors[name + SCALE]
    assert joined(2, SMALL, tensors) is None


def test_in_a_shard_of_heads_nothing_crosses():
    tensors = model_tensors(SMALL)[0]
    assert joined(2, SMALL, tensors, shard_spec=ShardSpec(0, 2, 0, 1)) is None


@given(st.integers(1, 40), st.integers(1, 40))
def test_only_plain_or_crossing_rows_are_accepted(k_rows, v_rows):
    """K has 768 rows and V 512: 6 and 4 blocks of 128, or 12 and 8 of 64, or 8 and 4 crossing."""
    shapes = {K: (768, 136), K + SCALE: (k_rows, 2), V: (512, 136), V + SCALE: (v_rows, 2)}
    tensors = {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
    if (k_rows, v_rows) in {(6, 4), (12, 8)}:
        assert joined(2, SMALL, tensors) is None
    elif (k_rows, v_rows) == (8, 4):
        assert isinstance(joined(2, SMALL, tensors), CrossingKV)
    else:
        with pytest.raises(ValueError, match=rf"^file: {K}: k and v have scales \({k_rows}, 2\)"):
            joined(2, SMALL, tensors)
