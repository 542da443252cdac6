"""Tests of layouts: which of q, k and v are read together, and which rows of which tensors."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.param_specs import FUSED
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs.meta import hub_tensors
from mimo_v2_flash.quantization import StoredLayout, find_joint_layout
from mimo_v2_flash.quantization.fp8_projections import SCALE
from tests.support.quantised import SMALL, model_tensors

PREFIX = "model.layers.2"
K, V = (f"{PREFIX}.self_attn.{letter}_proj.weight" for letter in "kv")


def joint(index: int, config: MiMoConfig, tensors) -> StoredLayout | None:
    request = param_specs.projections(f"model.layers.{index}", config, config.layers[index])
    return find_joint_layout(request, tensors, lambda name: f"file: {name}")


def test_of_the_real_model_nine_full_layers_have_crossing_scales():
    """Source: the hub's index has 8 scale rows for K of 768 rows, and 4 for V of 512."""
    config = MiMoConfig()
    tensors = hub_tensors(config)
    layers = [joint(index, config, tensors) for index in range(48)]
    full = [index for index, pattern in enumerate(config.hybrid_layer_pattern) if not pattern]
    assert [index for index, layer in enumerate(layers) if layer] == full
    assert len(full) == 9
    for index in full:
        k, v = layers[index].stored
        assert (tensors[k].shape, tensors[v].shape) == ((768, 4096), (512, 4096))
        assert (tensors[k + SCALE].shape, tensors[v + SCALE].shape) == ((8, 32), (4, 32))
        shapes = [layers[index].weights[name].tensors["scale"] for name in (k, v)]
        assert shapes == [(12, 32), (8, 32)]


@pytest.mark.parametrize("index", range(3))
def test_a_fused_weight_is_rank_after_rank(index):
    tensors = model_tensors(SMALL, fused=True)[0]
    layer = joint(index, SMALL, tensors)
    assert layer.stored == (f"model.layers.{index}.{FUSED}",)
    keys = [part.key for part in layer.parts(None)]
    assert keys == [f"model.layers.{index}.{FUSED} {rank} 0" for rank in range(4)]


def test_full_layers_cross_and_sliding_ones_do_not():
    layers = [joint(index, SMALL, model_tensors(SMALL)[0]) for index in range(3)]
    assert layers[1] is None
    for index in (0, 2):
        attention = f"model.layers.{index}.self_attn"
        assert layers[index].stored == tuple(f"{attention}.{x}_proj.weight" for x in "kv")


@pytest.mark.parametrize("names", [(K,), (V,), (K, V)])
def test_what_has_no_scales_crosses_nothing(names):
    tensors = dict(model_tensors(SMALL)[0])
    for name in names:
        del tensors[name + SCALE]
    assert joint(2, SMALL, tensors) is None


@given(st.integers(1, 40), st.integers(1, 40))
def test_only_plain_or_crossing_rows_are_accepted(k_rows, v_rows):
    """K has 768 rows and V 512: 6 and 4 blocks of 128, or 12 and 8 of 64, or 8 and 4 crossing."""
    shapes = {K: (768, 136), K + SCALE: (k_rows, 2), V: (512, 136), V + SCALE: (v_rows, 2)}
    tensors = {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
    if (k_rows, v_rows) in {(6, 4), (12, 8)}:
        assert joint(2, SMALL, tensors) is None
    elif (k_rows, v_rows) == (8, 4):
        assert joint(2, SMALL, tensors).stored == (K, V)
    else:
        with pytest.raises(ValueError, match=rf"^file: {K}: k and v have scales \({k_rows}, 2\)"):
            joint(2, SMALL, tensors)
