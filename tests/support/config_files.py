"""Contents of config.json files, as published on the hub and as saved by transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimo_v2_flash.config import MiMoConfig

HUB = {
    "architectures": ["MiMoV2FlashForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_mimo_v2_flash.MiMoV2FlashConfig"},
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "model_type": "mimo_v2_flash",
    "vocab_size": 152576,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 192,
    "v_head_dim": 128,
    "swa_num_attention_heads": 64,
    "swa_num_key_value_heads": 8,
    "swa_head_dim": 192,
    "swa_v_head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 262144,
    "initializer_range": 0.02,
    "layernorm_epsilon": 1e-05,
    "use_cache": True,
    "tie_word_embeddings": False,
    "rope_theta": 5000000,
    "swa_rope_theta": 10000,
    "rope_scaling": None,
    "partial_rotary_factor": 0.334,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_value_scale": 0.707,
    "sliding_window": 128,
    "sliding_window_size": 128,
    "attention_chunk_size": 128,
    "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False,
    "hybrid_block_size": None,
    "hybrid_layer_pattern": [0, 1, 1, 1, 1] + [0, 1, 1, 1, 1, 1] * 7 + [0],
    "moe_layer_freq": [0] + [1] * 47,
    "n_routed_experts": 256,
    "n_shared_experts": None,
    "num_experts_per_tok": 8,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": None,
    "eos_token_id": 151645,
    "torch_dtype": "bfloat16",
}
# What transformers 5.23 saves of a model with two layers.
SAVED = {
    "model_type": "mimo_v2_flash",
    "attention_bias": False,
    "attention_value_scale": 0.5,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "head_dim": 24,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.03,
    "intermediate_size": 96,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 512,
    "mlp_layer_types": ["sparse", "dense"],
    "moe_intermediate_size": 32,
    "n_group": 1,
    "n_routed_experts": 8,
    "norm_topk_prob": True,
    "num_attention_heads": 12,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.5,
            "rope_theta": 700.0,
            "rope_type": "default",
        },
        "sliding_attention": {
            "partial_rotary_factor": 0.5,
            "rope_theta": 30.0,
            "rope_type": "default",
        },
    },
    "routed_scaling_factor": 2.5,
    "sliding_window": 5,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "v_head_dim": 16,
    "vocab_size": 128,
}
# The model of SAVED.
SMALL = MiMoConfig(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    max_position_embeddings=512,
    layernorm_epsilon=1e-6,
    initializer_range=0.03,
    num_attention_heads=12,
    num_key_value_heads=3,
    head_dim=24,
    v_head_dim=16,
    rope_theta=700.0,
    add_full_attention_sink_bias=False,
    swa_num_attention_heads=12,
    swa_num_key_value_heads=6,
    swa_head_dim=24,
    swa_v_head_dim=16,
    swa_rope_theta=30.0,
    add_swa_attention_sink_bias=True,
    sliding_window=5,
    partial_rotary_factor=0.5,
    attention_value_scale=0.5,
    n_routed_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    routed_scaling_factor=2.5,
    hybrid_layer_pattern=(1, 0),
    moe_layer_freq=(1, 0),
    eos_token_id=(2, 3),
)


def written(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write a config.json with `content` into `folder` and return its path."""
    file = folder / "config.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def load(folder: Path, content: Mapping[str, Any]) -> MiMoConfig:
    """Write a config.json with `content` into `folder` and return the MiMoConfig read from it."""
    return MiMoConfig.from_pretrained(written(folder, content))


def without(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return `content` without `keys`."""
    return {key: value for key, value in content.items() if key not in keys}
