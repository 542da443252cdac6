"""Random block-scaled FP8 weights as in the hub's checkpoints, in memory: attention or a model.

(q, k, v), whole = attention(Heads(8, 4, 192, 128), ranks=4, hidden=130, seed=0)
tensors, truth = model_tensors(SMALL, fused=True)
"""

import numpy as np

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.quantization import QuantizedTensor
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.fp8_grid import plain_height
from mimo_v2_flash.quantization.fp8_projections import SCALE, joint_layout
from mimo_v2_flash.quantization.stored_layout import Heads, Projections
from tests.support.fp8_blocks import Arrays, Quantised, quantise_attention, quantize_weights

# Full and dense, sliding, full; MiMo's head widths and 4 KV heads, so that scales cross.
SMALL = MiMoConfig(
    vocab_size=9,
    hidden_size=136,
    intermediate_size=264,
    num_hidden_layers=3,
    num_attention_heads=8,
    swa_num_attention_heads=8,
    n_routed_experts=5,
    num_experts_per_tok=2,
    moe_intermediate_size=40,
    hybrid_layer_pattern=(0, 1, 0),
    moe_layer_freq=(0, 1, 1),
)
FULL_LAYERS = ("model.layers.0", "model.layers.2")


def attention(
    heads: Heads, *, ranks: int, hidden: int, seed: int
) -> tuple[list[Quantised], Quantised]:
    """Return q, k and v as quantised on `ranks` ranks: split, and fused."""
    generator = np.random.default_rng(seed)
    H, K, Q, C = heads
    rows = (H * Q, K * Q, K * C)
    return quantise_attention(*(matrix(generator, count, hidden) for count in rows), ranks)


def matrix(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Return normal numbers whose size differs from row to row, so that every scale differs."""
    size_O1 = np.exp(generator.uniform(-4, 4, (shape[0], 1)))
    return (generator.standard_normal(shape) * size_O1).astype(np.float32)


def stored(weight: Quantised) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and scales as read from a file."""
    return as_read(weight.code_OI), weight.scale_YX


def assert_is(weight, quantised: Quantised) -> None:
    """Assert that a weight has the codes of `quantised` and dequantises to the same numbers."""
    assert weight.code.dtype == np.uint8
    np.testing.assert_array_equal(weight.code, quantised.code_OI.view(np.uint8))
    np.testing.assert_array_equal(weight.dequantize(), quantised.truth_OI)


def model_tensors(config: MiMoConfig, *, fused: bool = False) -> tuple[Arrays, Arrays]:
    """Return a model's tensors, FP8 as codes, and its dequantised weights with q, k and v split."""
    generator = np.random.default_rng(0)
    random = {
        name: generator.standard_normal(shape, np.float32)
        if len(shape) == 1
        else matrix(generator, *shape)
        for name, shape in param_specs.all_params(config)
    }
    kept, truth = quantize_weights(random, config.num_key_value_heads, fused)
    return {name: as_read(array) for name, array in kept.items()}, truth


def as_read(array: np.ndarray) -> np.ndarray:
    """Return `array` as read from a file: FP8 as codes."""
    return array.view(np.uint8) if array.dtype.itemsize == 1 else array


def split_fused(
    name: str, weight: tuple[np.ndarray, np.ndarray], heads: Heads, ranks: int
) -> list[QuantizedTensor]:
    """Return q, k and v of a fused weight, as loading reads them."""
    code, scale = weight
    tensors = {name: code, name + SCALE: scale}
    layout = joint_layout(Projections(*"qkv", name, heads, ranks), tensors, lambda name: name)
    weights = layout.load(tensors)
    return [weights[part] for part in "qkv"]


def plain_grid(name: str, code: np.ndarray, scale: np.ndarray) -> BlockScaled:
    """Return a weight whose scales are on a plain grid."""
    return BlockScaled(code, scale, plain_height(name, code.shape, scale.shape))


def random_codes(
    *shape: int, grid: tuple[int, ...], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return finite codes, and scales that are far apart."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 0x7F, shape, np.uint8), generator.random(grid, np.float32) + 0.1
