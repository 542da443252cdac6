"""Lower bounds of programs, counted by hand."""

import numpy as np
import pytest

from mimo_v2_flash.costs.lower_bound import ProgramShape, lower_bound
from mimo_v2_flash.quantization.fp8 import BlockScaled

SIZES = ProgramShape(
    rows=2, tokens=3, local_tokens=4, kv_length=10, window=1000, experts_per_token=2
)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_a_matrix_meets_every_token_and_is_read_once():
    bound = lower_bound({"weights.w_q_OD": zeros(6, 5), "norm_D": zeros(5)}, {}, SIZES)
    assert bound == (2 * 6 * 30, 4 * 35, 0)


def test_a_token_meets_the_experts_that_it_chose():
    weights = {"weights.experts.w_up_eFD": zeros(8, 6, 5)}
    assert lower_bound(weights, {}, SIZES) == (2 * 4 * 2 * 30, 4 * 240, 0)


def test_a_weight_of_a_format_has_its_logical_shape_and_stored_bytes():
    weights = {
        "weights.experts.w_up_eFD": BlockScaled(np.zeros((8, 6, 5), np.uint8), zeros(8, 1, 1))
    }
    assert lower_bound(weights, {}, SIZES) == (2 * 4 * 2 * 30, 8 * (30 + 4), 0)


def test_a_router_meets_the_tokens_of_its_rank():
    assert lower_bound({"weights.w_router_ED": zeros(6, 5)}, {}, SIZES).operations == 2 * 4 * 30


def test_an_embedding_gives_its_tokens_rows():
    assert lower_bound({"embedding_VD": zeros(100, 5)}, {}, SIZES) == (0, 6 * 20, 0)


@pytest.mark.parametrize(("window", "keys", "slots"), [(1000, 12, 10), (7, 7, 7)])
def test_a_token_sees_the_keys_in_its_window(window, keys, slots):
    cache = {"cache.k_ZKQ": zeros(201, 1, 6), "cache.v_ZKC": zeros(201, 1, 4)}
    weights = {"weights.attention.w_o_DI": zeros(5, 8)}
    bound = lower_bound(weights, cache, SIZES._replace(window=window))
    projection, heads = 2 * 6 * 40, 2
    assert bound.operations == projection + 2 * 6 * keys * heads * (6 + 4)
    assert bound.cache == 2 * slots * 10 * 4
