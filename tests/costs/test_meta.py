"""Tests of meta_weights: shapes, dtypes and bytes of loaded weights, for every prepared dtype."""

from dataclasses import replace

import pytest

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.params import nbytes
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import HubLayout
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import plan_conversion_job
from mimo_v2_flash.costs.meta import meta_weights, one_of_each_layer
from mimo_v2_flash.execution.pytree import tree_signature
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import Recipe, tiny


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", ["fp8", "bfloat16", "float32"])
def test_meta_weights_are_like_those_of_a_prepared_checkpoint(tmp_path, dtype, fused):
    hub = write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path / "hub", fused=fused).folder
    config = MiMoConfig.from_pretrained(hub)
    experts = tuple(range(config.n_routed_experts))
    job = plan_conversion_job(
        FolderSource(hub), config, tmp_path / "out", Encoding(dtype, "cpu"), experts
    )
    job.run(workers=1, advance=id)
    real = load_weights(tmp_path / "out", config)._replace(prepared=None)  # its metadata
    meta_arrays = meta_weights(config, dtype, mtp_heads=3, layout=HubLayout(fused))
    assert tree_signature(meta_arrays) == tree_signature(real)
    assert nbytes(meta_arrays) == nbytes(real)


@pytest.mark.parametrize(
    "recipe", [Recipe(), replace(Recipe(), num_kv_heads=1, hidden=40)], ids=str
)
def test_meta_weights_are_like_those_that_transformers_saved(recipe):
    model = tiny(recipe)
    assert tree_signature(meta_weights(model.config, "float32")) == tree_signature(model.weights)


def test_meta_weights_take_no_memory():
    config = MiMoConfig(num_hidden_layers=1, hybrid_layer_pattern=(0,), moe_layer_freq=(0,))
    meta_arrays = meta_weights(config, "fp8")
    for array in (meta_arrays.embedding_VD, meta_arrays.layers[0].feed_forward.w_gate_FD.code):
        assert array.strides == (0, 0)


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype 'int8'"):
        meta_weights(MiMoConfig(), "int8")


def test_a_model_has_three_kinds_of_layers_and_each_layer_is_one_of_them():
    config = MiMoConfig()
    few, kind_of_layer = one_of_each_layer(config)
    assert few.num_hidden_layers == 3
    assert tuple(few.layers[kind] for kind in kind_of_layer) == config.layers
