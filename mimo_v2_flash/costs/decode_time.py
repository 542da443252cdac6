"""The expected time of a decode step on a host: bytes that a token reads, by what reads them.

A step reads every matrix once, and of each layer's experts those that its tokens choose; if all
are as likely, B tokens choose 1 - (1 - A/E)^B of them. What an expert store does not hold comes
from the disk first. Routers that prefer some experts do better, and nothing here knows by how much.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from mimo_v2_flash.config import MiMoConfig

from .placement import Placement

__all__ = ["DecodeRates", "DecodeTime", "decode_time"]


class DecodeRates(NamedTuple):
    """How fast a host decodes.

    Attributes
    ----------
    memory
        Bytes per second that are read from memory: of formats that were not measured, and of keys
        and values.
    disk
        Bytes per second that the disk gives; None if unknown.
    layer_seconds
        Seconds of a layer of a step that do not depend on its weights.
    products, experts
        Bytes per second of products with one row, and of experts of one token, by format.
    """

    memory: float
    disk: float | None = None
    layer_seconds: float = 0.0
    products: Mapping[str, float] = {}
    experts: Mapping[str, float] = {}

    def scaled(self, factor: float, most: float = math.inf) -> "DecodeRates":
        """Return the rates of so many times the cores, which read at most `most` bytes a second."""

        def scale(rates: Mapping[str, float]) -> dict[str, float]:
            return {form: min(factor * rate, most) for form, rate in rates.items()}

        memory = min(factor * self.memory, most)
        return self._replace(
            memory=memory, products=scale(self.products), experts=scale(self.experts)
        )


class DecodeTime(NamedTuple):
    """The expected seconds of a step, by what takes them, and the tokens that it makes.

    Attributes
    ----------
    weights, experts, cache
        Matrices that every token reads, experts, keys and values.
    disk
        Experts that an expert store reads; None if the disk's rate is unknown.
    layers
        What does not depend on weights.
    tokens
        Tokens of the step.
    """

    weights: float
    experts: float
    cache: float
    disk: float | None
    layers: float
    tokens: int

    @property
    def seconds(self) -> float | None:
        """Seconds of the step."""
        if self.disk is None:
            return None
        return self.weights + self.experts + self.cache + self.disk + self.layers

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of all sequences together per second."""
        return self.tokens / self.seconds if self.seconds else None


def decode_time(
    placement: Placement, config: MiMoConfig, rates: DecodeRates, *, batch_size: int, kv_bytes: int
) -> DecodeTime:
    """Return the expected time of a step of one token in each of `batch_size` sequences.

    Parameters
    ----------
    placement
        The weights, and what of the experts is in an expert store.
    config
        The model.
    rates
        How fast the host is.
    batch_size
        Sequences.
    kv_bytes
        Bytes of the keys and values of all of them, which the step reads.
    """
    touched = touched_experts(config, batch_size)
    weights = experts = 0.0
    for row in placement.table:
        if row.is_expert:
            rate = rates.experts.get(row.form, rates.memory)
            experts += touched * row.nbytes / rate
        elif row.is_read:
            weights += row.nbytes / rates.products.get(row.form, rates.memory)
    return DecodeTime(
        weights=weights,
        experts=experts,
        cache=kv_bytes / rates.memory,
        disk=_disk_seconds(placement, rates, touched),
        layers=config.num_hidden_layers * rates.layer_seconds,
        tokens=batch_size,
    )


def touched_experts(config: MiMoConfig, batch_size: int) -> float:
    """Return the part of a layer's experts that a step of so many tokens chooses, on average."""
    chosen = config.num_experts_per_tok / config.n_routed_experts
    return 1 - (1 - chosen) ** batch_size


def _disk_seconds(placement: Placement, rates: DecodeRates, touched: float) -> float | None:
    """Return the seconds in which a store reads what it lacks, if all experts are as likely."""
    whole = placement.experts_bytes
    if placement.expert_cache is None or not whole:
        return 0.0
    missed = touched * max(0, whole - placement.expert_cache)
    return missed / rates.disk if rates.disk else None
