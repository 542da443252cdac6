"""Tests of foreign_storage: what is not read is named with what it is, by every entrance."""

import pytest

from mimo_v2_flash.checkpoint.check import check_names
from mimo_v2_flash.checkpoint.foreign_storages import STORAGES, foreign_storage
from mimo_v2_flash.checkpoint.param_specs import ParamSpec
from mimo_v2_flash.quantization.registry import FORMATS

WEIGHT = "model.layers.1.mlp.experts.0.up_proj.weight"
STEM = WEIGHT.removesuffix(".weight")
# What each kind of file has in place of a weight.
PUBLISHED = {
    "AWQ": (".qweight", ".qzeros", ".scales"),
    "GPTQ": (".qweight", ".qzeros", ".g_idx", ".scales"),
    "pack-quantized": (".weight_packed", ".weight_scale", ".weight_shape"),
    "NVFP4 of modelopt": (".weight", ".weight_scale", ".weight_scale_2"),
    "NVFP4 of compressed-tensors": (".weight_packed", ".weight_scale", ".weight_global_scale"),
    "static FP8": (".weight", ".weight_scale", ".input_scale"),
    "MLX": (".weight", ".scales", ".biases"),
}


@pytest.mark.parametrize("storage", PUBLISHED)
def test_a_storage_that_is_not_read_is_refused_with_what_it_is(storage):
    available = [f"{STEM}{end}" for end in PUBLISHED[storage]]
    with pytest.raises(ValueError, match=r"this storage is not read$") as refusal:
        check_names("folder", [ParamSpec(WEIGHT, (4, 8))], available)
    name, what = foreign_storage(available)
    assert str(refusal.value) == f"folder: {name} is of {what}: this storage is not read"
    assert storage in what


def test_no_tensor_of_a_format_that_is_read_is_foreign():
    names = [name for form in FORMATS.values() for name in form.tensor_names(WEIGHT).values()]
    assert foreign_storage([*names, "model.norm.weight"]) is None
    assert not set(STORAGES) & {f".{name.rpartition('.')[2]}" for name in names}


def test_towers_may_be_stored_in_any_manner():
    names = check_names("", [ParamSpec(WEIGHT, (4, 8))], [WEIGHT, "visual.blocks.0.qkv.scales"])
    assert names.left_out == {"visual.*": 1}
