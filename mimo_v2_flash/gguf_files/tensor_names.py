"""Names of a mimo2 model's tensors in GGUF, for the names that the hub gives its parameters.

Source: the gguf package 0.19, `get_tensor_name_map(MODEL_ARCH.MIMO2)`, with which tests compare.
"""

import re
from typing import NamedTuple

__all__ = ["GGUFName", "gguf_name"]

TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.qkv_proj.weight": "attn_qkv.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.attention_sink_bias": "attn_sinks.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
EXPERT = re.compile(r"mlp\.experts\.(\d+)\.(gate|up|down)_proj\.weight")


class GGUFName(NamedTuple):
    """A tensor's name, and the index in it of the expert that a parameter is of."""

    name: str
    expert: int | None = None


def gguf_name(param: str) -> GGUFName:
    """Return where a GGUF file has the parameter that the hub calls `param`.

    Raises
    ------
    KeyError
        If mimo2 has no such tensor.

    Examples
    --------
    >>> gguf_name("model.layers.3.mlp.experts.7.up_proj.weight")
    GGUFName(name='blk.3.ffn_up_exps.weight', expert=7)
    """
    layer = LAYER.fullmatch(param)
    if layer is None:
        return GGUFName(TOP[param])
    index, name = layer.groups()
    if expert := EXPERT.fullmatch(name):
        return GGUFName(f"blk.{index}.ffn_{expert[2]}_exps.weight", int(expert[1]))
    return GGUFName(f"blk.{index}.{IN_LAYER[name]}")
