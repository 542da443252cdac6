"""Tests of the registry: a format by its name, and that of a weight in a checkpoint."""

import numpy as np
import pytest

from mimo_v2_flash.quantization import find_format, get_format, register_format, registry
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.quantized_tensor import StoredTensor

WEIGHT = "model.layers.0.mlp.up_proj.weight"
CODE, SCALE = np.zeros((2, 3), np.uint8), np.ones((1, 1), np.float32)


@pytest.fixture
def twin(monkeypatch) -> type[BlockScaled]:
    """Return a second format whose tensors have FP8's names and other dtypes."""
    monkeypatch.setattr(registry, "FORMATS", dict(registry.FORMATS))

    @register_format
    class Twin(BlockScaled):
        format = "twin"
        tensors = StoredTensor("code", "weight", np.int8), BlockScaled.tensors[1]

    return Twin


def test_a_format_is_found_by_its_name(twin):
    assert get_format("fp8") is BlockScaled
    assert get_format("twin") is twin
    with pytest.raises(ValueError, match=r"format 'q9', expected one of fp8, .*twin"):
        get_format("q9")


def test_a_name_is_taken_once(twin):
    assert register_format(twin) is twin
    with pytest.raises(ValueError, match=r"format 'fp8' is BlockScaled already"):
        register_format(type("Other", (BlockScaled,), {}))


def test_a_weight_has_the_format_of_which_all_tensors_are_there():
    tensors = {WEIGHT: CODE, f"{WEIGHT}_scale_inv": SCALE, "lm_head.weight": CODE}
    assert find_format(tensors, WEIGHT) is BlockScaled
    assert find_format(tensors, "lm_head.weight") is None
    assert find_format({f"{WEIGHT}_scale_inv": SCALE}, WEIGHT) is None


def test_of_two_formats_the_dtypes_decide(twin):
    scale = {f"{WEIGHT}_scale_inv": SCALE}
    assert find_format({WEIGHT: CODE} | scale, WEIGHT) is BlockScaled
    assert find_format({WEIGHT: CODE.view(np.int8)} | scale, WEIGHT) is twin
    # Where neither fits, the first says what it expected.
    assert find_format({WEIGHT: SCALE} | scale, WEIGHT) is BlockScaled
