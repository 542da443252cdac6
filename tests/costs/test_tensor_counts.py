"""Counts of published checkpoints, as others printed them from headers, are those declared here.

Each figure is of names and shapes that no test could read from files.
"""

from collections import Counter
from math import prod

import pytest

from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import NO_TOWERS, PRESETS, SPLIT, HubLayout
from mimo_v2_flash.costs.tensor_counts import TensorCounts, count_tensors
from tests.support.published import ALL_ELEMENTS, FIGURES, MTP_FILE_BYTES, tower_tensors
from tests.support.shipped import FOLDER


def parts_of(name: str) -> dict[str, TensorCounts]:
    preset = PRESETS[name]
    return count_tensors(MiMoConfig.from_preset(name), preset.layout, preset.towers)


@pytest.mark.parametrize("name", FIGURES)
def test_a_published_checkpoint_is_declared_to_the_last_byte(name):
    published, total = FIGURES[name], TensorCounts.total(parts_of(name).values())
    assert total.tensors == published.tensors
    assert published.bytes in (None, total.nbytes)
    assert published.elements in (None, total.elements)
    assert ALL_ELEMENTS.get(name, sum(total.elements.values())) == sum(total.elements.values())


@pytest.mark.parametrize(("name", "text"), [("v2.5", 72_574), ("v2.5-pro", 159_533)])
def test_the_tensors_of_the_parts(name, text):
    """Source: the report of which `published.py` tells counts those of MTP heads and towers."""
    parts = parts_of(name)
    assert (parts["model"].tensors, parts["mtp_heads"].tensors) == (text, 48)
    assert parts["other_modalities"].tensors == {"v2.5": 364 + 95, "v2.5-pro": 0}[name]


@pytest.mark.parametrize("name", ["v2-flash", "v2.5", "v2.6-flash"])
def test_mtp_heads_have_the_bytes_of_their_file(name):
    """They are the same whether q, k and v are fused: no scale is one of two projections."""
    assert parts_of(name)["mtp_heads"].nbytes == MTP_FILE_BYTES


@pytest.mark.parametrize("name", ["v2.5", "v2.5-fp4", "v2.6-flash", "v2.6-flash-mopd", "v2.6-pro"])
def test_towers_have_the_tensors_that_a_report_lists(name):
    shapes = tower_tensors(MiMoConfig.from_preset(name).hidden_size)
    elements = sum(map(prod, shapes.values()))
    assert PRESETS[name].towers == (len(shapes), elements)
    assert parts_of(name)["other_modalities"] == (len(shapes), {"BF16": elements}, 2 * elements)


def test_a_router_in_float32_would_not_give_the_published_bytes():
    config, preset = MiMoConfig.v2_6_pro(), PRESETS["v2.6-pro"]
    wide = count_tensors(config, preset.layout._replace(router_dtype="F32"), preset.towers)
    total = TensorCounts.total(wide.values())
    assert total.tensors == FIGURES["v2.6-pro"].tensors
    assert total.nbytes - FIGURES["v2.6-pro"].bytes == 2 * 69 * 384 * 6144


def test_the_first_model_has_as_many_elements_as_the_hub_shows():
    """309.8 billion, scales included."""
    total = TensorCounts.total(parts_of("v2-flash-base").values())
    assert round(sum(total.elements.values()) / 1e9, 1) == 309.8


def test_the_counts_of_the_shipped_model_are_those_of_its_files():
    source = FolderSource(FOLDER)
    infos = source.tensor_infos(source.names()).values()
    elements = Counter[str]()
    for info in infos:
        elements[info.dtype] += prod(info.shape)
    total = TensorCounts.total(
        count_tensors(MiMoConfig.from_pretrained(FOLDER), SPLIT, NO_TOWERS).values()
    )
    nbytes = sum(info.end - info.begin for info in infos)
    assert total == (len(infos), dict(sorted(elements.items())), nbytes)


def test_towers_that_are_not_known_are_no_part():
    config = MiMoConfig.v2_5().truncated(1)
    assert set(count_tensors(config, HubLayout(fused=True))) == {"model", "mtp_heads"}
