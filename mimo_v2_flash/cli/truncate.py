"""Truncation of a model to its first layers."""

from dataclasses import replace

from mimo_v2_flash.config import MiMoConfig

__all__ = ["truncate_layers"]


def truncate_layers(config: MiMoConfig, count: int) -> MiMoConfig:
    """Return `config` with its first `count` layers; ValueError if it has fewer."""
    if not 1 <= count <= config.num_hidden_layers:
        raise ValueError(f"--num-layers {count} is not in 1..{config.num_hidden_layers}")
    return replace(
        config,
        num_hidden_layers=count,
        hybrid_layer_pattern=config.hybrid_layer_pattern[:count],
        moe_layer_freq=config.moe_layer_freq[:count],
    )
