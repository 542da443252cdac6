"""Parts of a model: some of its experts, with their router rows and biases; its first layers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.inputs import as_integer
from mimo_v2_flash.parallel_config import UNSHARDED

from .params import DecoderWeights, ExpertWeights, ModelWeights, MoEWeights

__all__ = ["check_experts", "check_model", "from_ranges", "keep_experts", "keep_layers"]


def check_experts(experts: Sequence[int], available: Sequence[int]) -> list[int]:
    """Return `experts` in ascending order, having checked that they are `available`.

    In this order the router settles equal scores as in the whole model: the lowest id wins.

    Raises
    ------
    ValueError
        If `experts` is empty, names an id twice, or one that is not available.
    """
    ids = [as_integer("expert_subset: an id", expert) for expert in experts]
    if len(ids) != len(set(ids)):
        twice = sorted({expert for expert in ids if ids.count(expert) > 1})
        raise ValueError(f"expert_subset names {twice} more than once")
    if absent := sorted(set(ids) - set(available)) if ids else "no expert":
        raise ValueError(f"expert_subset names {absent}, allowed are {_ranges(available)}")
    return sorted(ids)


def check_model(weights: ModelWeights, config: MiMoConfig) -> None:
    """Raise ValueError if `weights` have other layers, vocabulary or hidden size than `config`."""
    expected = config.num_hidden_layers, (config.vocab_size, config.hidden_size)
    actual = len(weights.layers), tuple(weights.embedding_VD.shape)
    if actual != expected:
        raise ValueError(
            f"the weights have {actual[0]} layers and an embedding {actual[1]}, the config asks "
            f"for {expected[0]} and {expected[1]}"
        )


def keep_experts(
    weights: ModelWeights, config: MiMoConfig, experts: Sequence[int] | None = None
) -> tuple[ModelWeights, MiMoConfig]:
    """Return the model with only `experts`, and its config; a token is routed to at most as many.

    Parameters
    ----------
    weights, config
        The model; its weights may already be a subset of the experts.
    experts
        Ids to keep, as the checkpoint numbers them; by default all that the weights have.

    Raises
    ------
    ValueError
        As for `check_experts`; or if the weights are a shard, of which no experts can be chosen.
    """
    ids = check_experts(weights.expert_ids if experts is None else experts, weights.expert_ids)
    if len(ids) < len(weights.expert_ids):
        if weights.shard_spec != UNSHARDED:
            raise ValueError(
                f"expert_subset of a shard, {weights.shard_spec}: prepare shards of these experts"
            )
        rows = [weights.expert_ids.index(expert) for expert in ids]
        layers = tuple(_select_experts(layer, rows) for layer in weights.layers)
        weights = weights._replace(layers=layers, expert_ids=tuple(ids))
    if len(ids) == config.n_routed_experts:
        return weights, config
    return weights, replace(
        config,
        n_routed_experts=len(ids),
        num_experts_per_tok=min(config.num_experts_per_tok, len(ids)),
        num_devices=1,
    )


def keep_layers(
    weights: ModelWeights, config: MiMoConfig, num_layers: int
) -> tuple[ModelWeights, MiMoConfig]:
    """Return the model's first `num_layers` layers, and their config; ValueError if it has fewer.

    MTP heads are kept with all layers only: they read the hidden states of the last.
    """
    few = config.truncated(num_layers)
    heads = weights.mtp if few == config else ()
    return weights._replace(layers=weights.layers[:num_layers], mtp=heads), few


def _select_experts(layer: DecoderWeights, rows: list[int]) -> DecoderWeights:
    mixture = layer.feed_forward
    if not isinstance(mixture, MoEWeights):
        return layer
    experts = ExpertWeights.of(mixture.experts[row] for row in rows)
    subset = MoEWeights(mixture.w_router_ED[rows], mixture.bias_E[rows], experts)
    return layer._replace(feed_forward=subset)


def from_ranges(ranges: Sequence[str]) -> list[int]:
    """Return the ids in ranges such as "0" and "4-7"; ValueError names a malformed one."""
    ids: list[int] = []
    for text in ranges:
        first, _, last = text.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise ValueError(f"expert_subset: {text!r} is neither an id nor a range such as 0-7")
        ids.extend(range(int(first), int(last or first) + 1))
    return ids


def _ranges(ids: Sequence[int]) -> str:
    """Return ids as short text: 0-7, 9."""
    ordered = np.sort(ids)
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
