"""Tests of all_params: names and shapes of the hub's files and of transformers' checkpoints."""

import math
import re

import pytest
from safetensors import safe_open

from mimo_v2_flash.checkpoint.param_specs import all_params, hub_dtype, hub_format
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import PRESETS
from tests.support.tiny import Recipe, tiny

D, V = 4096, 152576


def shapes_of(config: MiMoConfig) -> dict[str, tuple[int, ...]]:
    return {param.name: param.shape for param in all_params(config)}


def layer(index: int) -> dict[str, tuple[int, ...]]:
    """Return the parameters of one layer of the real model, without all experts but the last."""
    prefix = f"model.layers.{index}."
    params = {
        name.removeprefix(prefix): shape
        for name, shape in shapes_of(MiMoConfig()).items()
        if name.startswith(prefix)
    }
    other_experts = re.compile(r"mlp\.experts\.(?!255\.)")
    return {name: shape for name, shape in params.items() if not other_experts.match(name)}


def attention(k_rows: int, v_rows: int) -> dict[str, tuple[int, ...]]:
    return {
        "input_layernorm.weight": (D,),
        "post_attention_layernorm.weight": (D,),
        "self_attn.q_proj.weight": (12288, D),
        "self_attn.k_proj.weight": (k_rows, D),
        "self_attn.v_proj.weight": (v_rows, D),
        "self_attn.o_proj.weight": (D, 8192),
    }


MIXTURE = {
    "mlp.gate.weight": (256, D),
    "mlp.gate.e_score_correction_bias": (256,),
    "mlp.experts.255.gate_proj.weight": (2048, D),
    "mlp.experts.255.up_proj.weight": (2048, D),
    "mlp.experts.255.down_proj.weight": (D, 2048),
}


def test_layer_0_is_full_and_dense():
    assert layer(0) == attention(768, 512) | {
        "mlp.gate_proj.weight": (16384, D),
        "mlp.up_proj.weight": (16384, D),
        "mlp.down_proj.weight": (D, 16384),
    }


def test_layer_1_slides_and_has_sinks_and_experts():
    sinks = {"self_attn.attention_sink_bias": (64,)}
    assert layer(1) == attention(1536, 1024) | sinks | MIXTURE


def test_layer_5_is_full_and_has_experts():
    assert layer(5) == attention(768, 512) | MIXTURE


def test_the_whole_model_is_in_36523_tensors():
    names = [param.name for param in all_params(MiMoConfig())]
    experts = 47 * 256 * 3
    assert len(names) == len(set(names)) == 3 + 9 + 39 * 9 + 8 * 8 + experts == 36523
    # The hub's files hold 72,826: a scale for each matrix in FP8, and 60 of three MTP heads.
    float8 = [name for name in names if re.search(r"\.([qkv]|gate|up|down)_proj\.", name)]
    assert len(names) + len(float8) + 60 == 72826


def test_the_whole_model_has_308_78_billion_parameters():
    shapes = shapes_of(MiMoConfig())
    assert round(sum(map(math.prod, shapes.values())) / 1e9, 2) == 308.78
    ends = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    assert [shapes[name] for name in ends] == [(V, D), (D,), (V, D)]


def test_the_whole_model_takes_the_bytes_of_the_hubs_files():
    total = 0
    for name, shape in shapes_of(MiMoConfig()).items():
        if re.search(r"\.([qkv]|gate|up|down)_proj\.", name):
            outputs, inputs = shape
            crossing = shape == (768, D)  # K of full layers: 2 scale rows for each of 4 heads
            total += outputs * inputs + 4 * (8 if crossing else outputs // 128) * (inputs // 128)
        else:
            total += math.prod(shape) * (4 if ".mlp.gate." in name else 2)
    assert total == 311_862_258_560


@pytest.mark.parametrize("model", ["v2-flash", "v2.5", "v2.5-pro-fp4", "v2.6-flash"])
@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("model.embed_tokens.weight", "BF16"),
        ("lm_head.weight", "BF16"),
        ("model.layers.1.self_attn.o_proj.weight", "BF16"),
        ("model.layers.1.self_attn.attention_sink_bias", "BF16"),
        ("model.layers.1.self_attn.qkv_proj.weight", "fp8"),
        ("model.layers.0.mlp.down_proj.weight", "fp8"),
        ("model.layers.1.mlp.experts.7.up_proj.weight", "experts"),
        ("model.layers.1.mlp.gate.weight", "router"),
        ("model.layers.1.mlp.gate.e_score_correction_bias", "F32"),
        ("model.mtp.layers.2.mlp.gate_proj.weight", "fp8"),
        ("model.mtp.layers.2.eh_proj.weight", "BF16"),
    ],
)
def test_how_the_hub_stores_a_weight(model, name, stored):
    layout = PRESETS[model].layout
    formats = {"experts": layout.expert_format or "fp8", "router": layout.router_dtype}
    form = hub_format(name, layout)
    assert (form.format if form else hub_dtype(name, layout)) == formats.get(stored, stored)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(layers=Recipe.layers[1:2])])
def test_transformers_writes_the_same_names_and_shapes(tmp_path, recipe):
    tiny(recipe).oracle.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        written = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes_of(MiMoConfig.from_pretrained(tmp_path)) == written
