"""Tensor counts of a model's files: how many there are, elements by dtype, and bytes.

Without the files: from the declaration of tensors that loading and preparing check against.
"""

from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from mimo_v2_flash.checkpoint.param_specs import MTP_PREFIX
from mimo_v2_flash.checkpoint.safetensors_file import TensorInfo
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import HubLayout, Towers

from .meta import NUM_MTP_HEADS, hub_tensors

__all__ = ["TensorCounts", "count_tensors"]


class TensorCounts(NamedTuple):
    """How many tensors files hold, their elements by safetensors dtype, and their bytes."""

    tensors: int
    elements: dict[str, int]
    nbytes: int

    @classmethod
    def of(cls, infos: Iterable[TensorInfo]) -> "TensorCounts":
        """Return the counts of tensors."""
        tensors, elements, nbytes = 0, Counter[str](), 0
        for info in infos:
            tensors += 1
            elements[info.dtype] += prod(info.shape)
            nbytes += info.nbytes
        return cls(tensors, dict(sorted(elements.items())), nbytes)

    @classmethod
    def total(cls, counts: Iterable["TensorCounts"]) -> "TensorCounts":
        """Return the counts of all together."""
        tensors, elements, nbytes = 0, Counter[str](), 0
        for count in counts:
            tensors, nbytes = tensors + count.tensors, nbytes + count.nbytes
            elements.update(count.elements)
        return cls(tensors, dict(sorted(elements.items())), nbytes)


def count_tensors(
    config: MiMoConfig, layout: HubLayout, towers: Towers | None = None
) -> dict[str, TensorCounts]:
    """Return the counts of the text model, the MTP heads and, with `towers`, the other modalities.

    The keys are "model", "mtp_heads" and "other_modalities".

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    layout : HubLayout
        How files store weights.
    towers : Towers, optional
        Tensors of other modalities.
    """
    infos = hub_tensors(config, layout, mtp_heads=NUM_MTP_HEADS)
    is_mtp = {name: name.startswith(MTP_PREFIX) for name in infos}
    counts = {
        "model": TensorCounts.of(info for name, info in infos.items() if not is_mtp[name]),
        "mtp_heads": TensorCounts.of(info for name, info in infos.items() if is_mtp[name]),
    }
    if towers is not None:
        stored = TensorInfo.new("BF16", (towers.elements,))
        counts["other_modalities"] = TensorCounts.of([stored])._replace(tensors=towers.tensors)
    return counts
