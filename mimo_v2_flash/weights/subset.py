"""A model with fewer experts: routers, biases and experts cut to those that are kept."""

from collections.abc import Sequence
from dataclasses import replace
from operator import index

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import UNSHARDED

from .params import DecoderWeights, ExpertWeights, ModelWeights, MoEWeights

__all__ = ["check_experts", "check_model", "from_ranges", "keep_experts"]


def check_experts(experts: Sequence[int], there: Sequence[int]) -> list[int]:
    """Return `experts` in the order of those that are `there`.

    So that equal scores are settled as in the whole model: for the lowest id.

    Raises
    ------
    ValueError
        If there are none, one is named twice, or one is not there.
    """
    ids = [index(expert) for expert in experts]
    if len(ids) != len(set(ids)):
        twice = sorted({expert for expert in ids if ids.count(expert) > 1})
        raise ValueError(f"expert_subset names {twice} more than once")
    if absent := sorted(set(ids) - set(there)) if ids else "no expert":
        raise ValueError(f"expert_subset names {absent}, there are {_ranges(there)}")
    return sorted(ids)


def check_model(weights: ModelWeights, config: MiMoConfig) -> None:
    """Raise ValueError if `weights` have other layers, words or channels than `config`."""
    expected = config.num_hidden_layers, (config.vocab_size, config.hidden_size)
    found = len(weights.layers), tuple(weights.embedding_VD.shape)
    if found != expected:
        raise ValueError(
            f"the weights have {found[0]} layers and an embedding {found[1]}, the config asks for "
            f"{expected[0]} and {expected[1]}"
        )


def keep_experts(
    weights: ModelWeights, config: MiMoConfig, experts: Sequence[int] | None = None
) -> tuple[ModelWeights, MiMoConfig]:
    """Return the model that has only `experts`, and its config; a token chooses at most as many.

    Parameters
    ----------
    weights, config
        The model; its weights may already be those of some experts only.
    experts
        Ids to keep, the checkpoint's; all that are there if not given.

    Raises
    ------
    ValueError
        As `check_experts`; or if the weights are a share, of which no experts can be chosen.
    """
    ids = check_experts(weights.expert_ids if experts is None else experts, weights.expert_ids)
    if len(ids) < len(weights.expert_ids):
        if weights.shard_spec != UNSHARDED:
            raise ValueError(f"no experts can be chosen of {weights.shard_spec}: prepare them anew")
        places = [weights.expert_ids.index(expert) for expert in ids]
        layers = tuple(_cut(layer, places) for layer in weights.layers)
        weights = weights._replace(layers=layers, expert_ids=tuple(ids))
    if len(ids) == config.n_routed_experts:
        return weights, config
    return weights, replace(
        config,
        n_routed_experts=len(ids),
        num_experts_per_tok=min(config.num_experts_per_tok, len(ids)),
        num_devices=1,
    )


def _cut(layer: DecoderWeights, places: list[int]) -> DecoderWeights:
    mixture = layer.feed_forward
    if not isinstance(mixture, MoEWeights):
        return layer
    experts = ExpertWeights(*(tuple(stack[info] for info in places) for stack in mixture.experts))
    cut = MoEWeights(mixture.w_router_ED[places], mixture.bias_E[places], experts)
    return layer._replace(feed_forward=cut)


def from_ranges(words: Sequence[str]) -> list[int]:
    """Return the ids that words such as "0" and "4-7" stand for; ValueError names another word."""
    ids: list[int] = []
    for word in words:
        first, _, last = word.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise ValueError(f"expert_subset: {word!r} is neither an id nor a range such as 0-7")
        ids.extend(range(int(first), int(last or first) + 1))
    return ids


def _ranges(ids: Sequence[int]) -> str:
    """Return ids as a person would write them: 0-7, 9."""
    runs: list[list[int]] = []
    for number in sorted(ids):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
