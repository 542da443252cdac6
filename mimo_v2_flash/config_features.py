"""What a config.json says beside the architecture's numbers, as data for `config_keys`.

Source: hub config.json of XiaomiMiMo/MiMo-V2-Flash, -V2.5, -V2.5-Pro and -V2.6-Flash; transformers
5.23 configuration_mimo_v2_flash.py, configuration_utils.py and utils/quantization_config.py.
"""

from typing import Any

from .config_rules import QKV_ORDERS

__all__ = [
    "CONVERSION",
    "EXPERT_FORMATS",
    "FULL",
    "FUSED",
    "HUB_FEATURES",
    "LAYOUT",
    "NESTED",
    "QUANTIZATION",
    "ROPE",
    "ROUTER_DTYPE",
    "ROUTER_DTYPES",
    "SLIDING",
    "STORE_DTYPE",
    "SUPPORTED",
    "WITHOUT_EFFECT",
]

ROPE, QUANTIZATION = "rope_parameters", "quantization_config"
FULL, SLIDING = f"{ROPE}.full_attention", f"{ROPE}.sliding_attention"
LAYOUT, FUSED = "attention_projection_layout", "fused_qkv"
STORE_DTYPE, ROUTER_DTYPE = f"{QUANTIZATION}.store_dtype", "moe_router_dtype"
CONVERSION = "conversion_metadata"
# Objects whose keys are looked at one by one.
NESTED = (ROPE, FULL, SLIDING, QUANTIZATION, CONVERSION)

# MiMo-V2.6 has quant_method "fp8" and store_dtype "mxfp4": its experts alone are in MXFP4.
EXPERT_FORMATS = {None: None, "fp8": None, "mxfp4": "mxfp4"}
"""store_dtype -> the format of experts, where it is not that of the other matmul weights."""

ROUTER_DTYPES = {None: "F32", "float32": "F32", "bfloat16": "BF16"}
"""moe_router_dtype -> how files store routers; their logits are computed in float32."""

HUB_FEATURES: dict[str, tuple[Any, ...]] = {
    "model_type": ("mimo_v2_flash", "mimo_v2", "", None),  # "": the hub's configuration class
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "tie_word_embeddings": (False,),
    "rope_scaling": (
        None,
        {"type": "default"},
        {"rope_type": "default"},
        {"type": "default", "rope_type": "default"},  # MiMo-V2.5
    ),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "norm_topk_prob": (True,),
    "n_group": (1,),
    "topk_group": (1,),
    "n_shared_experts": (None, 0),
}
"""Features without alternatives: key -> values that are computed, the hub's first."""

_ROPE_FEATURES: dict[str, tuple[Any, ...]] = {
    key: allowed
    for mapping in (ROPE, FULL, SLIDING)
    for key, allowed in (
        (mapping, (None, {})),  # an object's keys are looked at instead
        (f"{mapping}.type", ("default",)),
        (f"{mapping}.rope_type", ("default",)),
    )
}
_QUANTIZATION_FEATURES: dict[str, tuple[Any, ...]] = {
    QUANTIZATION: (None, {}),
    f"{QUANTIZATION}.quant_method": ("fp8", "modelopt", "compressed-tensors", None),
    f"{QUANTIZATION}.fmt": ("e4m3", None),
    STORE_DTYPE: tuple(EXPERT_FORMATS),
    f"{QUANTIZATION}.expert_dtype": ("fp8", "mxfp4", None),
    f"{QUANTIZATION}.mxfp4_block_size": (32, None),
    f"{QUANTIZATION}.weight_block_size": ([128, 128],),
    f"{QUANTIZATION}.activation_scheme": ("dynamic", None),  # "static" comes with input scales
    f"{QUANTIZATION}.kv_cache_scheme": (None,),
    "quantization": (None,),  # MLX
    "compression_config": (None,),
}
_OFF = (None, False)
_OTHER_FEATURES: dict[str, tuple[Any, ...]] = {
    LAYOUT: (None, "split", FUSED),
    ROUTER_DTYPE: tuple(ROUTER_DTYPES),
    "store_dtype": (None, "fp8"),
    "fused_qkv_weight_order": QKV_ORDERS,
    "use_sliding_window": (None, True),
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "alibi"), _OFF),
    **dict.fromkeys(("use_qk_norm", "qk_norm", "qk_layernorm", "use_qk_layernorm"), _OFF),
    **dict.fromkeys(("qkv_bias", "attention_out_bias", "mlp_bias", "use_bias"), _OFF),
    **dict.fromkeys(("use_mrope", "rope_interleave", "rope_interleaved"), _OFF),
    **dict.fromkeys(("attention_output_gate", "attn_output_gate", "use_attention_gate"), _OFF),
    **dict.fromkeys(("final_logit_softcapping", "attn_logit_softcapping"), (None,)),
    **dict.fromkeys(("router_logit_softcapping", "clip_qkv", "swiglu_limit"), (None,)),
    **dict.fromkeys(("query_pre_attn_scalar", "first_k_dense_replace"), (None,)),
    **dict.fromkeys(("logit_scale", "logits_scaling", "embedding_multiplier"), (None, 1)),
    **dict.fromkeys(("residual_multiplier", "attention_multiplier"), (None, 1)),
}

SUPPORTED = HUB_FEATURES | _ROPE_FEATURES | _QUANTIZATION_FEATURES | _OTHER_FEATURES
"""Every key that would change what is computed -> its values that are computed."""

_WITHOUT_EFFECT_BY_REASON: dict[str, tuple[str, ...]] = {
    "it says which code reads the file": (
        *("architectures", "auto_map", "transformers_version", "_name_or_path", "name_or_path"),
        *("attn_implementation", "_attn_implementation", "experts_implementation"),
    ),
    "the tensors of a checkpoint say it": (
        *("dtype", "torch_dtype", "num_nextn_predict_layers"),
        *(f"{QUANTIZATION}.{key}" for key in ("ignored_layers", "modules_to_not_convert")),
        *(f"{QUANTIZATION}.{key}" for key in ("modules_to_convert", "packed_modules_mapping")),
        *(
            f"{QUANTIZATION}.{key}"
            for key in ("scale_fmt", "dequantize", "config_groups", "format")
        ),
        *(f"{QUANTIZATION}.{key}" for key in ("quantization_status", "ignore", "quant_algo")),
        *(f"{QUANTIZATION}.{key}" for key in ("global_compression_ratio", "exclude_modules")),
    ),
    "it repeats another key": ("attention_chunk_size",),
    "it is of training": (
        *("attention_dropout", "router_aux_loss_coef", "aux_loss_alpha", "seq_aux"),
        *("gradient_checkpointing",),
    ),
    "it is of what a Python class returns": (
        *("use_cache", "output_attentions", "output_hidden_states", "output_router_logits"),
        *("return_dict", "chunk_size_feed_forward", "problem_type", "id2label", "label2id"),
        *("torchscript",),
    ),
    "no token is added to a text": ("bos_token_id", "pad_token_id"),
    "it is of images, video and sound": (
        *("vision_config", "audio_config", "processor_config", "vision_model_type"),
        *(f"{kind}_token_id" for kind in ("image", "video", "audio")),
        *(f"{k}_{end}_token_id" for k in ("vision", "video", "audio") for end in ("start", "end")),
    ),
}
WITHOUT_EFFECT = {key: why for why, keys in _WITHOUT_EFFECT_BY_REASON.items() for key in keys}
"""Keys of this family's files that change nothing here -> why."""
