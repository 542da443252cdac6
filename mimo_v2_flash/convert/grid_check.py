"""A check of bytes: FP8 codes reach the largest where their blocks are those that scales are of.

A scale is the largest magnitude of its block / 448, so that every block of 128 x 128 has a code of
448, but of zeros. Where rows were put in another order, or taken for those of other ranks, blocks
are parts of two, and some have none. So a few megabytes tell what shapes and scales cannot.

Source: measured on the hub's MiMo-V2.6-Flash, https://github.com/JustVugg/colibri.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.param_specs import HUB_DTYPE
from mimo_v2_flash.checkpoint.projections import find_layout
from mimo_v2_flash.checkpoint.safetensors_file import TensorInfo
from mimo_v2_flash.checkpoint.source import Source
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.quantization import HUB_FORMAT, StoredLayout, get_format
from mimo_v2_flash.quantization.stored_layout import LayoutPart

from .plan import Sample, read_part, row_layout_of, task_parts

__all__ = ["check_grids"]

PARTS = 4  # of a layout, each of up to 4 MB
TOLERANCE = 0.01  # of blocks without the largest code


class _Evidence(NamedTuple):
    """What some parts of a layout show: how many blocks have the largest code, how many could."""

    stored: tuple[str, ...]
    full: int
    blocks: int

    @property
    def is_full(self) -> bool:
        """Whether as good as all blocks have the largest code."""
        return self.full >= (1 - TOLERANCE) * self.blocks


def check_grids(source: Source, config: MiMoConfig, infos: Mapping[str, TensorInfo]) -> Sample:
    """Return what was read, having checked that projections have the blocks that are read.

    Parts are read of the first full layer, the first sliding layer and the first MTP head, if their
    projections lie together, and of a gate projection, whose blocks are certain: where they lack
    the largest code, another quantizer made them, and nothing is refused.

    Parameters
    ----------
    source : Source
        The checkpoint.
    config : MiMoConfig
        The architecture's numbers.
    infos : mapping of str to TensorInfo
        Its tensors, by name.

    Raises
    ------
    ValueError
        If blocks of the projections lack the largest code; file and tensor are named.
    """
    sample: Sample = {}
    layouts = list(_joint_layouts(config, infos))
    control = next(_certain_layouts(infos), None) if layouts else None
    if control is None:
        return sample
    certain = _evidence(source, infos, control, task_parts(control)[:1], sample)
    for layout in layouts if certain.is_full else ():
        parts = task_parts(layout)
        parts = parts[:: -max(1, len(parts) // PARTS)]
        shown = _evidence(source, infos, layout, parts, sample)
        if not shown.is_full:
            raise ValueError(f"{infos[shown.stored[0]].file}: {_refusal(shown, certain)}")
    return sample


def _evidence(
    source: Source,
    infos: Mapping[str, TensorInfo],
    layout: StoredLayout,
    parts: Sequence[LayoutPart],
    sample: Sample,
) -> _Evidence:
    """Return what parts of a layout show; their rows are added to `sample`."""
    full = blocks = 0
    for part in parts:
        rows = read_part(source, infos, part)
        for run in layout.runs(list(rows.values())):
            counts = layout.form.full_blocks(run)
            full, blocks = full + counts[0], blocks + counts[1]
        sample.update(rows)
    return _Evidence(layout.stored, full, blocks)


def _refusal(shown: _Evidence, certain: _Evidence) -> str:
    return (
        f"{' and '.join(shown.stored)}: {shown.blocks - shown.full} of {shown.blocks} blocks of a "
        f"sample lack the largest code, which {certain.full} of {certain.blocks} of "
        f"{certain.stored[0]} have: rows are not in the order that the scales are of; a converter "
        "may have moved them"
    )


def _joint_layouts(config: MiMoConfig, infos: Mapping[str, TensorInfo]) -> Iterator[StoredLayout]:
    """Yield the layout of each kind's first projections, where they lie together."""
    kinds = set()
    for prefix, spec in param_specs.layers(config, infos):
        kind = spec.attention, prefix.startswith(param_specs.MTP_PREFIX)
        if kind in kinds:
            continue
        kinds.add(kind)
        layout = find_layout(
            prefix, config, spec, infos, lambda name: f"{infos[name].file}: {name}"
        )
        if isinstance(layout, StoredLayout):
            yield layout


def _certain_layouts(infos: Mapping[str, TensorInfo]) -> Iterator[StoredLayout]:
    """Yield the layouts of weights of the hub's format that are by themselves."""
    for name, info in infos.items():
        if name.endswith(".gate_proj.weight") and info.dtype == HUB_DTYPE:
            yield row_layout_of(get_format(HUB_FORMAT), name, info.shape, infos)
