"""Tiny models with random MTP heads, and the heads as PyTorch modules with a mask of their own.

A head's outputs are arranged as this project has them: what it computes of the token at a position
is about the next token, and head k has none at positions 0 to k.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as mimo

from mimo_v2_flash.checkpoint.params import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    MTPWeights,
)
from mimo_v2_flash.layers.forward_batch import Step
from tests.support.hub_checkpoint import random_mtp_weights
from tests.support.tiny import SLIDING, Recipe, Tiny, tiny

__all__ = ["WithHeads", "head_logits", "run_heads", "with_heads"]

HEADS = 3


class Head(nn.Module):
    """One MTP head of transformers' modules, with the parameter names of the hub's files."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        D, epsilon = config.hidden_size, config.rms_norm_eps
        for name in ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm"):
            self.add_module(name, mimo.MiMoV2FlashRMSNorm(D, epsilon))
        self.eh_proj = nn.Linear(2 * D, D, bias=False)
        self.self_attn = mimo.MiMoV2FlashAttention(config, config.layer_types.index(SLIDING))
        self.mlp = mimo.MiMoV2FlashMLP(config)


class WithHeads(NamedTuple):
    """A tiny model with heads, and the same heads in PyTorch."""

    model: Tiny
    heads: list[Any]


@lru_cache(maxsize=16)
def with_heads(recipe: Recipe) -> WithHeads:
    """Return the model of a recipe, which has a sliding layer, with three random heads."""
    base = tiny(recipe)
    arrays = random_mtp_weights(base.config, recipe.seed)
    prefixes = [f"model.mtp.layers.{index}." for index in range(HEADS)]
    heads = [Head(base.oracle.config).eval() for _ in prefixes]
    for prefix, head in zip(prefixes, heads, strict=True):
        names = [name for name in arrays if name.startswith(prefix)]
        head.load_state_dict(
            {
                name.removeprefix(prefix).replace("attention_sink_bias", "sinks"): torch.tensor(
                    arrays[name]
                )
                for name in names
            }
        )
    weights = base.weights._replace(mtp=tuple(_weights(arrays, prefix) for prefix in prefixes))
    return WithHeads(base._replace(weights=weights), heads)


def _weights(arrays: Any, prefix: str) -> MTPWeights:
    def of(*names: str) -> list[np.ndarray]:
        return [arrays[f"{prefix}{name}"] for name in names]

    ends = ("q_proj", "k_proj", "v_proj", "o_proj")
    attention = AttentionWeights(
        *of(*(f"self_attn.{end}.weight" for end in ends), "self_attn.attention_sink_bias")
    )
    network = DenseWeights(*of(*(f"mlp.{end}_proj.weight" for end in ("gate", "up", "down"))))
    enorm, hnorm, attention_norm, network_norm, final, w_eh = of(
        "enorm.weight",
        "hnorm.weight",
        "input_layernorm.weight",
        "pre_mlp_layernorm.weight",
        "final_layernorm.weight",
        "eh_proj.weight",
    )
    layer = DecoderWeights(attention_norm, attention, network_norm, network)
    return MTPWeights(enorm, hnorm, w_eh, layer, final)


def head_logits(oracle: Any, heads: Sequence[Any], token_T: Sequence[int]) -> list[np.ndarray]:
    """Return the logits of each head at each position, [T, V]: NaN where it has none."""
    hidden: list[torch.Tensor] = []
    hook = oracle.model.norm.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    token_1T, outputs = torch.tensor([list(token_T)]), []
    with torch.no_grad():
        oracle(token_1T, use_cache=False)
        hook.remove()
        T = len(token_T)
        rotary = oracle.model.rotary_emb(hidden[0], torch.arange(T)[None], SLIDING)
        for index, head in enumerate(heads):
            logits_TV = np.full((T, oracle.config.vocab_size), np.nan, np.float32)
            first = index + 1
            if first < T:
                embedded = oracle.model.embed_tokens(token_1T[:, first:])
                parts = tuple(part[:, : T - first] for part in rotary)
                x = _masked(head, embedded, hidden[0][:, : T - first], parts)
                logits_TV[first:] = oracle.lm_head(x)[0].numpy()
            outputs.append(logits_TV)
    return outputs


def _masked(head: Any, embedded: Any, hidden: Any, rotary: Any) -> Any:
    """Return what `Head.forward` does, under a mask of the sliding window."""
    x = head.eh_proj(torch.cat([head.enorm(embedded), head.hnorm(hidden)], dim=-1))
    age = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
    is_seen = (age >= 0) & (age < head.self_attn.sliding_window)
    mask = torch.where(is_seen, 0.0, float("-inf"))[None, None]
    normed = head.input_layernorm(x)
    x = x + head.self_attn(normed, position_embeddings=rotary, attention_mask=mask)[0]
    x = x + head.mlp(head.pre_mlp_layernorm(x))
    return head.final_layernorm(x)


def run_heads(model: Any, token_BT: Any, chunks: Sequence[int], dtype: Any = None) -> list[Any]:
    """Return the logits of each head of equally long rows, [B, T, V], read in chunks."""
    token_BT = np.asarray(token_BT, np.int32)
    B, T = token_BT.shape
    cache, start = model.new_cache(B, T, dtype, mtp_heads=HEADS), 0
    parts: list[list[np.ndarray]] = [[] for _ in range(HEADS)]
    for count in chunks:
        tokens = token_BT[:, start : start + count]
        index_Bn = np.broadcast_to(np.arange(count), (B, count))
        step = Step(tokens, np.full(B, start), np.full(B, count), index_Bn)
        model.runner.forward(model.runner.logits, step, cache)
        for head in range(HEADS):
            (logits_BnV,) = model.runner.draft(head, model.runner.logits, step, cache)
            parts[head].append(logits_BnV)
        start += count
    return [np.concatenate(part, axis=1) for part in parts]
