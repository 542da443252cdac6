"""Tests of find_layout: the order of fused weights, from scales, the config, or nothing."""

from dataclasses import replace

import numpy as np
import pytest

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.projections import find_layout, find_layouts
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.quantization import StoredLayout
from mimo_v2_flash.quantization.stored_layout import FusedRows

# Rows and scale rows of the published files: full, sliding.
FLASH = MiMoConfig(hybrid_layer_pattern=(0, 1), moe_layer_freq=(0, 1), num_hidden_layers=2)
PRO = replace(
    FLASH,
    hidden_size=6144,
    num_attention_heads=128,
    num_key_value_heads=8,
    swa_num_attention_heads=128,
)
V2_5 = (FLASH, ((13568, 4096), (108, 32)), ((14848, 4096), (116, 32)), 4)
V2_5_PRO = (PRO, *[((27136, 6144), (216, 48))] * 2, 8)
SCALE = "_scale_inv"
# Rows of a sliding layer of MiMo-V2.5, and the row of the fused weight that each is.
SOURCE_ROWS = [
    *[("q", 0, 0), ("q", 3072, 3712), ("k", 0, 3072), ("k", 384, 6784), ("v", 0, 3456)],
    ("v", 256, 7168),
]


def tensors(full, sliding, *, scaled: bool = True) -> dict[str, np.ndarray]:
    """Return the shapes of the fused weights of a full layer, a sliding one and an MTP head."""
    prefixes = {"model.layers.0": full, "model.layers.1": sliding, "model.mtp.layers.0": sliding}
    arrays = {"model.mtp.layers.0.enorm.weight": np.empty(1)}
    for prefix, (code, scale) in prefixes.items():
        name = f"{prefix}.{param_specs.FUSED}"
        arrays[name] = np.broadcast_to(np.uint8(0), code)
        if scaled:
            arrays[name + SCALE] = np.broadcast_to(np.float32(1), scale)
    return arrays


def ranks(config: MiMoConfig, arrays) -> list[int]:
    """Return how many ranks each fused weight is of."""
    layouts = list(find_layouts(config, arrays, str))
    assert len(layouts) == 3
    if all(isinstance(layout, FusedRows) for layout in layouts):
        return [len(next(iter(layout.rows.values()))) for layout in layouts]
    assert all(isinstance(layout, StoredLayout) for layout in layouts)
    first = [layout.parts(None) for layout in layouts]
    return [len(list(parts)) for parts in first]


@pytest.mark.parametrize(("config", "full", "sliding", "expected"), [V2_5, V2_5_PRO])
@pytest.mark.parametrize("order", [None, "interleaved"])
def test_published_files_are_of_as_many_ranks_as_full_layers_have_kv_heads(
    config, full, sliding, expected, order
):
    config = replace(config, fused_qkv_weight_order=order)
    assert ranks(config, tensors(full, sliding)) == [expected] * 3


@pytest.mark.parametrize("order", [None, "plain"])
def test_plain_files_are_of_one_whatever_sliding_layers_could_be(order):
    config, (full, _), sliding, _ = V2_5
    arrays = tensors((full, (106, 32)), sliding)
    assert ranks(replace(config, fused_qkv_weight_order=order), arrays) == [1] * 3


@pytest.mark.parametrize("order", [None, "plain", "interleaved"])
@pytest.mark.parametrize("rows", [107, 105, 116])
def test_scales_of_no_order_are_refused(order, rows):
    config, (full, _), sliding, _ = V2_5
    arrays = tensors((full, (rows, 32)), sliding)
    with pytest.raises(ValueError, match=rf"^model\.layers\.0\..*scales \({rows}, 32\), expected"):
        ranks(replace(config, fused_qkv_weight_order=order), arrays)


def test_scales_of_another_order_than_the_configs_are_refused():
    config, full, sliding, _ = V2_5
    with pytest.raises(ValueError, match=r"expected .*\(106, 32\): 1 ranks of \[q \| k \| v\]"):
        ranks(replace(config, fused_qkv_weight_order="plain"), tensors(full, sliding))


def test_without_scales_the_config_must_say_the_order():
    config, full, sliding, expected = V2_5
    arrays = tensors(full, sliding, scaled=False)
    with pytest.raises(ValueError, match="fused_qkv_weight_order says it") as refusal:
        ranks(config, arrays)
    assert str(refusal.value).startswith(f"model.layers.0.{param_specs.FUSED}: has no scales")
    for order, count in (("plain", 1), ("interleaved", expected)):
        assert ranks(replace(config, fused_qkv_weight_order=order), arrays) == [count] * 3


@pytest.mark.parametrize(("letter", "row", "source"), SOURCE_ROWS)
def test_rows_of_a_sliding_layer_are_those_that_other_readers_take(letter, row, source):
    config, full, sliding, _ = V2_5
    config = replace(config, fused_qkv_weight_order="interleaved")
    arrays = tensors(full, sliding, scaled=False)
    name = f"model.layers.1.{param_specs.FUSED}"
    arrays[name] = np.arange(sliding[0][0])[:, None]
    layout = find_layout("model.layers.1", config, config.layers[1], arrays, str)
    weights = layout.load(arrays)
    assert weights[f"model.layers.1.self_attn.{letter}_proj.weight"][row, 0] == source


def test_split_projections_have_no_layout():
    assert find_layout("model.layers.0", FLASH, FLASH.layers[0], {}, str) is None


def test_a_layer_that_cannot_tell_leaves_it_to_one_that_can():
    """The first layer is sliding, whose 116 scale rows are those of both orders."""
    config, (full, scale), sliding, expected = V2_5
    config = replace(config, hybrid_layer_pattern=(1, 0))
    for scales, count in ((scale, expected), ((106, 32), 1)):
        arrays = tensors(sliding, (full, scales))
        for end in ("", SCALE):  # a head is sliding
            name = f"model.mtp.layers.0.{param_specs.FUSED}{end}"
            arrays[name] = arrays[f"model.layers.0.{param_specs.FUSED}{end}"]
        assert ranks(config, arrays) == [count] * 3
