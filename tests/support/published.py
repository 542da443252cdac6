"""The published models: their config.json, and what their files hold, as others printed it.

Source: for MiMo-V2.5 and -V2.5-Pro a report that prints config.json, and name, shape and dtype of
every tensor; for -V2.6-Flash-RL its config.json; for -V2.6-Pro-RL all keys that differ, and for
both element counts by dtype, read from the headers of their files. docs/family.md has the rest.
"""

from typing import Any, NamedTuple

from tests.support.config_files import HUB, without


class Figures(NamedTuple):
    """Totals of a published checkpoint; None where they were not printed."""

    tensors: int
    bytes: int | None
    elements: dict[str, int] | None


def _quantization(layers: int, **others: object) -> dict[str, Any]:
    names = (*(f"layers.{layer}" for layer in range(layers)), "decoder")
    return {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "ignored_layers": [f"model.{name}.self_attn.o_proj" for name in names],
        **others,
    }


_AUTO_MAP = {
    "AutoConfig": "configuration_mimo_v2.MiMoV2Config",
    "AutoModel": "modeling_mimo_v2.MiMoV2Model",
    "AutoModelForCausalLM": "modeling_mimo_v2.MiMoV2ForCausalLM",
}
_MIMO_V2 = without(HUB, "eos_token_id", "rope_scaling", "torch_dtype", "auto_map") | {
    "architectures": ["MiMoV2ForCausalLM"],
    "model_type": "mimo_v2",
    "attention_projection_layout": "fused_qkv",
    "max_position_embeddings": 1048576,
    "rope_theta": 10000000,
}
_TOWERS = {
    "audio_config": {"out_hidden_size": 4096, "rope_theta": 640000, "speech_vocab_size": "1280"},
    "image_token_id": 151655,
    "processor_config": {"audio_fmax": None, "patch_size": 16, "rope_type": "rope"},
    "video_token_id": 151656,
    "vision_config": {"hidden_act": "silu", "use_sink": True, "window_size": 128},
    "vision_end_token_id": 151653,
    "vision_model_type": "mimovl",
    "vision_start_token_id": 151652,
}

V2_5 = (
    _MIMO_V2
    | _TOWERS
    | {
        "auto_map": _AUTO_MAP,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "pad_token_id": 151643,
        "quantization_config": _quantization(48, store_dtype="fp8"),
        "rope_scaling": {"rope_type": "default", "type": "default"},
        "transformers_version": "4.57.1",
    }
)
V2_5_PRO = without(_MIMO_V2, "hybrid_block_size") | {
    "auto_map": _AUTO_MAP,
    "attention_value_scale": 0.612,
    "hidden_size": 6144,
    "hybrid_layer_pattern": [
        int(i not in {0, 7, 15, 23, 31, 39, 47, 55, 62, 69}) for i in range(70)
    ],
    "moe_layer_freq": [0] + [1] * 69,
    "n_routed_experts": 384,
    "num_attention_heads": 128,
    "num_hidden_layers": 70,
    "num_key_value_heads": 8,
    "quantization_config": _quantization(70),
    "swa_num_attention_heads": 128,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.57.1",
}
V2_6_FLASH = (
    _MIMO_V2
    | _TOWERS
    | {
        "audio_end_token_id": 151674,
        "audio_start_token_id": 151673,
        "audio_token_id": 151669,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "layernorm_epsilon": 1e-06,
        "moe_router_dtype": "bfloat16",
        "num_nextn_predict_layers": 3,
        "pad_token_id": 151643,
        "quantization_config": _quantization(48, mxfp4_block_size=32, store_dtype="mxfp4"),
        "rope_parameters": {
            "partial_rotary_factor": 0.334,
            "rope_theta": 10000000.0,
            "rope_type": "default",
            "type": "default",
        },
        "rope_theta": 10000000.0,
        "swa_rope_theta": 10000.0,
        "transformers_version": "5.3.0",
    }
)
V2_6_PRO = without(V2_6_FLASH, "num_nextn_predict_layers") | {
    "attention_value_scale": 0.612,
    "audio_config": _TOWERS["audio_config"] | {"out_hidden_size": 6144},
    "hidden_size": 6144,
    "hybrid_layer_pattern": V2_5_PRO["hybrid_layer_pattern"],
    "layernorm_epsilon": 1e-05,
    "moe_layer_freq": V2_5_PRO["moe_layer_freq"],
    "n_routed_experts": 384,
    "num_attention_heads": 128,
    "num_hidden_layers": 70,
    "num_key_value_heads": 8,
    "quantization_config": _quantization(70, mxfp4_block_size=32, store_dtype="mxfp4"),
    "swa_num_attention_heads": 128,
    "vision_config": _TOWERS["vision_config"] | {"out_hidden_size": 6144},
}
# Not seen: of the FP4 models these keys alone are known, of Base what its GGUF files say.
_FP4 = {"mxfp4_block_size": 32, "store_dtype": "mxfp4"}
CONFIGS: dict[str, dict[str, Any]] = {
    "v2-flash": HUB | {"quantization_config": _quantization(48, packed_modules_mapping={})},
    "v2-flash-base": HUB | {"eos_token_id": 151643},
    "v2.5": V2_5,
    "v2.5-fp4": V2_5 | {"quantization_config": _quantization(48, **_FP4)},
    "v2.5-pro": V2_5_PRO,
    "v2.5-pro-fp4": V2_5_PRO | {"quantization_config": _quantization(70, **_FP4)},
    "v2.6-flash": V2_6_FLASH,
    "v2.6-flash-mopd": V2_6_FLASH,
    "v2.6-pro": V2_6_PRO,
}
"""config.json by the name of the preset, with towers' objects shortened: nothing reads them."""

FIGURES = {
    "v2.5": Figures(73_081, None, None),
    "v2.5-pro": Figures(159_581, 1_033_369_538_304, None),
    "v2.6-flash": Figures(
        73_081,
        172_923_364_096,
        {"BF16": 4_101_308_032, "F32": 248_192, "F8_E4M3": 3_859_808_256, "U8": 160_859_947_008},
    ),
    "v2.6-pro": Figures(
        160_040,
        566_027_990_784,
        {"BF16": 10_647_286_656, "F32": 857_088, "F8_E4M3": 13_378_781_184, "U8": 531_351_207_936},
    ),
}
ALL_ELEMENTS = {"v2.5": 310_775_040_000, "v2.5-pro": 1_023_244_718_976}
"""Elements of all tensors together, where they were printed so."""

MTP_FILE_BYTES = 1_189_400_448
"""Bytes of the tensors in model_mtp.safetensors of MiMo-V2.5."""


def tower_tensors(out_hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the towers of MiMo-V2.5, by name: all of them are in BF16.

    The width of what they give to the text model is the only number that another model changes.
    """
    audio, speech = "audio_encoder.input_local_transformer", "speech_embeddings"
    shapes: dict[str, tuple[int, ...]] = {f"{audio}.norm.weight": (1024,)}
    for layer in (f"{audio}.layers.{index}" for index in range(6)):
        shapes |= {f"{layer}.{n}_layernorm.weight": (1024,) for n in ("input", "post_attention")}
        shapes |= {f"{layer}.mlp.{n}_proj.weight": (4096, 1024) for n in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (1024, 4096)}
        shapes |= {f"{layer}.self_attn.{n}_proj.weight": (1024, 1024) for n in "qkvo"}
        shapes |= {f"{layer}.self_attn.{n}_proj.bias": (1024,) for n in "qkv"}
    shapes["audio_encoder.projection.mlp.0.weight"] = (16384, 4096)
    shapes["audio_encoder.projection.mlp.2.weight"] = (out_hidden_size, 16384)
    shapes |= {f"{speech}.{index}.weight": (1280, 1024) for index in range(20)}
    for index, block in ((index, f"visual.blocks.{index}") for index in range(28)):
        shapes |= {f"{block}.norm{n}.weight": (1280,) for n in (1, 2)}
        shapes |= {f"{block}.attn.proj.weight": (1280, 2048), f"{block}.attn.proj.bias": (1280,)}
        shapes |= {f"{block}.attn.qkv.weight": (3072, 1280), f"{block}.attn.qkv.bias": (3072,)}
        shapes |= {f"{block}.mlp.{n}_proj.weight": (4608, 1280) for n in ("gate", "up")}
        shapes |= {f"{block}.mlp.{n}_proj.bias": (4608,) for n in ("gate", "up")}
        shapes |= {f"{block}.mlp.down_proj.weight": (1280, 4608)}
        shapes |= {f"{block}.mlp.down_proj.bias": (1280,)}
        if index % 9:  # blocks 0, 9, 18 and 27 attend to all patches
            shapes[f"{block}.attn.sinks"] = (32,)
    shapes["visual.merger.ln_q.weight"] = (1280,)
    shapes["visual.merger.mlp.0.weight"] = (5120, 5120)
    shapes["visual.merger.mlp.2.weight"] = (out_hidden_size, 5120)
    shapes["visual.patch_embed.proj.weight"] = (1280, 3, 2, 16, 16)
    return shapes
