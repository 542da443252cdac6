"""Tiny random models, built by transformers and loaded by this project.

A recipe is drawn; its model is built, saved and loaded once. Weights are large enough that every
feature matters: scores spread, sinks compete, biases change choices.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from hypothesis import strategies as st
from packaging.version import Version

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.checkpoint.params import ModelWeights

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # threads do not pay for tensors as small as these

FULL, SLIDING = "full_attention", "sliding_attention"
# Older transformers, the last for Python 3.10, save experts of width 1 without that axis.
MIN_EXPERT_WIDTH = 1 if Version(transformers.__version__) >= Version("5.23") else 2
KINDS = [(attention, network) for attention in (FULL, SLIDING) for network in ("dense", "sparse")]


@dataclass(frozen=True)
class Recipe:
    """The sizes of a tiny model; the default has every kind of layer and no round number."""

    layers: tuple[tuple[str, str], ...] = (KINDS[0], KINDS[3], KINDS[2], KINDS[1], KINDS[3])
    seed: int = 0
    vocabulary: int = 61
    hidden: int = 23
    dense_width: int = 29
    expert_width: int = 13
    num_kv_heads: int = 2  # of full layers; transformers gives sliding layers twice as many
    queries_per_kv_head: int = 4  # in full layers
    head_dim: int = 11
    v_head_dim: int = 7
    rotary_dim: int = 6
    window: int = 5
    experts: int = 7
    experts_per_token: int = 3
    scaling: float = 2.5
    value_scale: float = 0.707
    theta: float = 5e6
    sliding_theta: float = 100.0
    epsilon: float = 1e-5


class Tiny(NamedTuple):
    """A model in transformers, and its config and weights loaded by this project."""

    oracle: Any
    config: MiMoConfig
    weights: ModelWeights


@st.composite
def recipes(draw) -> Recipe:
    """Draw a recipe: any pattern of layers, and widths of any number."""
    num_kv_heads, head_dim = draw(st.integers(1, 4)), draw(st.integers(2, 24))
    experts = draw(st.integers(2, 11))
    return Recipe(
        layers=tuple(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))),
        seed=draw(st.integers(0, 2**32 - 1)),
        vocabulary=draw(st.integers(9, 90)),
        hidden=draw(st.integers(5, 40)),
        dense_width=draw(st.integers(1, 50)),
        expert_width=draw(st.integers(MIN_EXPERT_WIDTH, 30)),
        num_kv_heads=num_kv_heads,
        queries_per_kv_head=2 * draw(st.integers(1, 2)),
        head_dim=head_dim,
        v_head_dim=draw(st.integers(1, 24)),
        rotary_dim=2 * draw(st.integers(1, head_dim // 2)),
        window=draw(st.integers(1, 40)),
        experts=experts,
        experts_per_token=draw(st.integers(1, min(8, experts))),
        scaling=draw(st.sampled_from([1.0, 2.5, 0.3])),
        value_scale=draw(st.sampled_from([0.707, 1.0, 1.9])),
        theta=draw(st.sampled_from([5e6, 3.0])),
        sliding_theta=draw(st.sampled_from([1e4, 20.0])),
        epsilon=draw(st.sampled_from([1e-5, 1e-2])),
    )


@lru_cache(maxsize=32)
def tiny(recipe: Recipe = Recipe()) -> Tiny:
    """Return the model of `recipe`, saved by `save_pretrained` and loaded by `load_weights`."""
    return loaded(built(recipe))


def built(recipe: Recipe) -> Any:
    """Return transformers' model of `recipe`, with its random weights."""
    oracle = transformers.MiMoV2FlashForCausalLM(transformers_config(recipe)).eval()
    randomise(oracle, recipe.seed)
    return oracle


def loaded(oracle: Any) -> Tiny:
    """Save `oracle` and return it as loaded by this project; a mapped file outlives its folder."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        oracle.save_pretrained(folder)
        config = MiMoConfig.from_pretrained(folder)
        return Tiny(oracle, config, load_weights(folder, config))


def transformers_config(recipe: Recipe) -> Any:
    """Return `recipe` as the config class of transformers."""
    whole = recipe.rotary_dim == recipe.head_dim
    factor = 1.0 if whole else (recipe.rotary_dim + 0.5) / recipe.head_dim  # to be truncated
    rope = {"rope_type": "default", "partial_rotary_factor": factor}
    attention, networks = zip(*recipe.layers, strict=True)
    config = transformers.MiMoV2FlashConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.dense_width,
        moe_intermediate_size=recipe.expert_width,
        num_hidden_layers=len(recipe.layers),
        layer_types=list(attention),
        mlp_layer_types=list(networks),
        num_attention_heads=recipe.num_kv_heads * recipe.queries_per_kv_head,
        num_key_value_heads=recipe.num_kv_heads,
        head_dim=recipe.head_dim,
        v_head_dim=recipe.v_head_dim,
        sliding_window=recipe.window,
        n_routed_experts=recipe.experts,
        num_experts_per_tok=recipe.experts_per_token,
        routed_scaling_factor=recipe.scaling,
        attention_value_scale=recipe.value_scale,
        rms_norm_eps=recipe.epsilon,
        rope_parameters={
            FULL: rope | {"rope_theta": recipe.theta},
            SLIDING: rope | {"rope_theta": recipe.sliding_theta},
        },
        max_position_embeddings=8192,
        attn_implementation="eager",
    )
    config._experts_implementation = "eager"  # the others need widths that are multiples of 4
    return config


def randomise(oracle: Any, seed: int) -> None:
    """Give every weight of `oracle` a value that shows in the logits."""
    generator = np.random.default_rng(seed)
    for name, tensor in oracle.state_dict().items():
        value = generator.standard_normal(tuple(tensor.shape))
        if name.endswith("norm.weight"):
            value = 1 + 0.3 * value
        elif name.endswith("e_score_correction_bias"):
            value = 0.2 * value
        elif not name.endswith(("embed_tokens.weight", "sinks")):
            value *= 1.5 / np.sqrt(tensor.shape[-1])
        tensor.copy_(torch.tensor(value))  # state_dict shares memory with the model


def with_experts(oracle: Any, recipe: Recipe, experts: list[int]) -> Any:
    """Return transformers' model with only some `experts` of `oracle`, and their router rows."""
    chosen = min(recipe.experts_per_token, len(experts))
    part = replace(recipe, experts=len(experts), experts_per_token=chosen)
    smaller = type(oracle)(transformers_config(part)).eval()
    of_experts = (".mlp.gate.", ".mlp.experts.")
    smaller.load_state_dict(
        {
            name: tensor[experts] if any(part in name for part in of_experts) else tensor
            for name, tensor in oracle.state_dict().items()
        }
    )
    return smaller


def random_tokens(model: Tiny, *shape: int, seed: int = 0) -> np.ndarray:
    """Return token ids of the model's vocabulary."""
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, shape, dtype=np.int32)


def running(model: Tiny, **options: Any) -> MiMoV2FlashModel:
    """Return this project's MiMoV2FlashModel."""
    return MiMoV2FlashModel(model.weights, model.config, **options)
