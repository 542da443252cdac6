"""Loader of a checkpoint in the hub's layout into transformers' model, in any dtype.

transformers 5.23 reads neither the hub's fields of config.json nor the scales of keys and values:
this module translates the config, and this project's reader dequantises the weights.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.checkpoint.source import FolderSource, open_checkpoint
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import plan_conversion_job

SAME = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "v_head_dim", "sliding_window"),
    *("moe_intermediate_size", "n_routed_experts", "num_experts_per_tok"),
    *("attention_value_scale", "routed_scaling_factor", "max_position_embeddings"),
)
KINDS, FFN_KINDS = ("full_attention", "sliding_attention"), ("dense", "sparse")


def load(folder: Path, config: MiMoConfig, dtype: str = "float32") -> Any:
    """Return transformers' model in a dtype, FP8 dequantised by this project's reader."""
    experts, float32 = tuple(range(config.n_routed_experts)), Encoding("float32", "cpu")
    with TemporaryDirectory() as prepared:
        job = plan_conversion_job(FolderSource(folder), config, Path(prepared), float32, experts)
        job.run(workers=1, advance=lambda _: None)
        tensors = open_checkpoint(Path(prepared)).items()
        state = {name: torch.tensor(np.array(weight, np.float32)) for name, weight in tensors}
    model, loading_info = transformers.MiMoV2FlashForCausalLM.from_pretrained(
        None, config=native(config), state_dict=state, output_loading_info=True, dtype=dtype
    )
    assert not any(loading_info.values()), loading_info
    return model.eval()


def native(config: MiMoConfig) -> Any:
    """Return the config in transformers' own fields, since it does not read those of the hub."""
    rope = {"rope_type": "default", "partial_rotary_factor": config.partial_rotary_factor}
    thetas = zip(KINDS, (config.rope_theta, config.swa_rope_theta), strict=True)
    translated = transformers.MiMoV2FlashConfig(
        **{name: value for name, value in vars(config).items() if name in SAME},
        rms_norm_eps=config.layernorm_epsilon,
        layer_types=[KINDS[sliding] for sliding in config.hybrid_layer_pattern],
        mlp_layer_types=[FFN_KINDS[sparse] for sparse in config.moe_layer_freq],
        rope_parameters={kind: rope | {"rope_theta": theta} for kind, theta in thetas},
        attn_implementation="eager",
    )
    translated._experts_implementation = "eager"  # the others need widths that are multiples of 4
    return translated
