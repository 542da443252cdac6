"""A model with fewer experts: routers, biases and experts cut to those that are kept."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mimo_v2_flash.config import MiMoConfig

from .records import DecoderWeights, ExpertWeights, ModelWeights, MoEWeights

__all__ = ["check_experts", "keep_experts"]


def check_experts(experts: Sequence[int], count: int) -> list[int]:
    """Return `experts` in the checkpoint's order.

    So that equal scores are settled as in the whole model: for the lowest id.

    Raises
    ------
    ValueError
        If there are none, one is named twice, or one is not in 0..count-1.
    """
    ids = [int(expert) for expert in experts]
    if len(ids) != len(set(ids)):
        twice = sorted({expert for expert in ids if ids.count(expert) > 1})
        raise ValueError(f"expert_subset names {twice} more than once")
    if not ids or not all(0 <= expert < count for expert in ids):
        outside = [expert for expert in ids if not 0 <= expert < count]
        raise ValueError(
            f"expert_subset: {outside or 'no expert'}, expected some of 0..{count - 1}"
        )
    return sorted(ids)


def keep_experts(
    weights: ModelWeights, config: MiMoConfig, experts: Sequence[int]
) -> tuple[ModelWeights, MiMoConfig]:
    """Return the model that has only `experts`, and its config; a token chooses at most as many.

    Parameters
    ----------
    weights, config
        The whole model.
    experts
        Ids to keep, the checkpoint's.

    Raises
    ------
    ValueError
        As `check_experts`.
    """
    ids = check_experts(experts, config.n_routed_experts)
    kept = replace(
        config,
        n_routed_experts=len(ids),
        num_experts_per_tok=min(config.num_experts_per_tok, len(ids)),
        num_devices=1,
    )
    return weights._replace(layers=tuple(_cut(layer, ids) for layer in weights.layers)), kept


def _cut(layer: DecoderWeights, ids: list[int]) -> DecoderWeights:
    mixture = layer.feed_forward
    if not isinstance(mixture, MoEWeights):
        return layer
    experts = ExpertWeights(*(tuple(stack[e] for e in ids) for stack in mixture.experts))
    cut = MoEWeights(mixture.w_router_ED[ids], mixture.bias_E[ids].astype(np.float32), experts)
    return layer._replace(feed_forward=cut)
