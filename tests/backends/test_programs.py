"""The real model's layers on 32 ranks become programs that Trainium2's compiler may be given.

Nothing is computed and no memory taken: tracing reads shapes alone.
"""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.backends.hygiene import faults
from mimo_v2_flash.cache import ring_slots
from mimo_v2_flash.groups import SoloGroup
from mimo_v2_flash.groups.device import DeviceGroup
from mimo_v2_flash.kernels.block_scale import BlockScaled
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import by_all_gather
from mimo_v2_flash.layers.attention import Step
from mimo_v2_flash.layers.decoder import Decoder
from mimo_v2_flash.layers.feed_forward import Rank
from mimo_v2_flash.layers.forms import FORMS
from mimo_v2_flash.weights.records import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    MoEWeights,
)

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy

RANKS, CONTEXT, FILLED = 32, 32_768, 4096
LAYERS = sorted(set(MiMoConfig().layers), key=repr)
FLOAT, INTEGER, BFLOAT16 = np.float32, np.int32, ml_dtypes.bfloat16
MOST_INSTRUCTIONS = {"bfloat16": 800, "fp8": 12_000}


def of(*shape: int, dtype=FLOAT) -> np.ndarray:
    return np.broadcast_to(np.zeros((), dtype), shape)


def bfloat16(*shape: int) -> np.ndarray:
    return of(*shape, dtype=BFLOAT16)


def fp8(*shape: int) -> BlockScaled:
    *stack, outputs, inputs = shape
    grid = *stack, -(-outputs // 128), -(-inputs // 128)
    return BlockScaled(of(*shape, dtype=ml_dtypes.float8_e4m3), of(*grid))


def weights_of(spec, matrix) -> DecoderWeights:
    """Return a rank's weights of a layer: all heads, its own experts."""
    attention, D, F = spec.attention, spec.hidden, spec.feed_forward
    keys, values = attention.key_width, attention.value_width
    own = AttentionWeights(
        matrix(attention.heads * keys, D),
        matrix(attention.kv_heads * keys, D),
        matrix(attention.kv_heads * values, D),
        bfloat16(D, attention.heads * values),
        of(attention.heads),
    )
    e = spec.experts // RANKS
    mixture = ExpertWeights(matrix(e, F, D), matrix(e, F, D), matrix(e, D, F)) if e else None
    router = of(spec.experts, D), of(spec.experts)
    dense = None if e else DenseWeights(matrix(F, D), matrix(F, D), matrix(D, F))
    return DecoderWeights(of(D), own, of(D), dense or MoEWeights(*router, mixture))


def traced(spec, tokens: int, matrix):
    """Return the program of a layer for one row of so many tokens."""
    from mimo_v2_flash.backends.tracing import trace

    attention, slots = spec.attention, ring_slots(spec.attention.window, CONTEXT)
    rows, places = (slots + 1, attention.kv_heads), of(1, tokens, dtype=INTEGER)
    table = of(CONTEXT, attention.rotary_dim // 2)
    world = DeviceGroup((tuple(range(RANKS)),))
    given = {
        "x_BTD": bfloat16(1, tokens, spec.hidden),
        "step": Step(places, places, table, table),
        "rank": Rank(of(1, dtype=INTEGER), of(1, dtype=INTEGER)),
        "cache": KVCache(
            bfloat16(*rows, attention.key_width),
            bfloat16(*rows, attention.value_width),
            of(slots + 1, dtype=INTEGER),
        ),
        "weights": weights_of(spec, matrix),
        "filled": min(FILLED, slots),
        "exchange": by_all_gather,
        "own": tokens,
    }
    return trace(Decoder.build(spec, SoloGroup(), world, FORMS["program"]), given)


@pytest.mark.parametrize("matrix", [bfloat16, fp8])
@pytest.mark.parametrize("tokens", [1, 4, 128])
@pytest.mark.parametrize("spec", LAYERS, ids=["full, dense", "full, experts", "sliding, experts"])
def test_a_layer_of_the_real_model_is_a_clean_program(spec, tokens, matrix):
    program = traced(spec, tokens, matrix)
    assert faults(program.module, most_instructions=MOST_INSTRUCTIONS[matrix.__name__]) == []
    written = {"x_BTD", "cache.k_ZKQ", "cache.v_ZKC", "cache.position_Z"}
    assert set(program.in_place.values()) == written
