"""Measured rates: which bytes a call reads, and that the rate is these bytes over its time."""

from itertools import pairwise

import numpy as np
import pytest

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.machine import decode_rates as module
from mimo_v2_flash.machine.decode_rates import measure_decoding
from mimo_v2_flash.quantization import QuantizedTensor

CONFIG = MiMoConfig(
    hidden_size=256,
    moe_intermediate_size=256,
    n_routed_experts=8,
    num_experts_per_tok=2,
    num_hidden_layers=2,
    hybrid_layer_pattern=(0, 1),
    moe_layer_freq=(0, 1),
)


@pytest.fixture
def calls(monkeypatch):
    """Record products and calls of experts; each look at the clock takes a second."""
    products, experts, ticks = [], [], iter(range(10**6))
    monkeypatch.setattr(module, "SAMPLE", 1 << 20)
    monkeypatch.setattr(module, "_layer_seconds", lambda: 0.25)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(module.ops, "matmul", lambda x, w: products.append((x, w)))
    monkeypatch.setattr(module, "eager_experts", lambda *arguments: experts.append(arguments))
    return products, experts


def test_a_product_reads_its_weight_once(calls):
    rates = measure_decoding(CONFIG, ["fp8", "BF16", "fp8"], disk=7.0)
    products, _ = calls
    large = {id(w): w for _, w in products}
    assert len(large) == 3  # float32, for memory, and each format once
    rates_of = [w.nbytes / 1 for w in large.values()]
    assert [rates.memory, *rates.products.values()] == rates_of
    assert list(rates.products) == ["fp8", "BF16"]
    assert (rates.disk, rates.layer_seconds) == (7.0, 0.25)
    assert all(x.shape == (1, 256) for x, _ in products)
    for w in large.values():
        assert w.nbytes >= module.SAMPLE // 2
        assert w.shape[0] % module.ROWS == 0


def test_copies_of_rows_have_their_numbers(calls):
    measure_decoding(CONFIG, ["fp8"])
    (w_OI,) = {id(w): w for _, w in calls[0] if isinstance(w, QuantizedTensor)}.values()
    rows = w_OI.dequantize()
    np.testing.assert_array_equal(rows[: module.ROWS], rows[-module.ROWS :])


def test_a_call_of_experts_reads_others_than_the_last(calls):
    rates = measure_decoding(CONFIG, ["q8_0"])
    _, experts = calls
    (held,) = {id(arguments[3]): arguments[3] for arguments in experts}.values()
    one = sum(weight.nbytes for weight in held[0])
    assert rates.experts["q8_0"] == 2 * one
    assert len({id(weight) for expert in held for weight in expert}) == 3 * len(held)
    ids = [set(arguments[2].ravel().tolist()) for arguments in experts]
    assert all(len(each) == 2 for each in ids)
    assert all(not first & second for first, second in pairwise(ids))


def test_what_is_no_format_is_not_measured(calls):
    rates = measure_decoding(CONFIG, ["F16", "I64"])
    assert (rates.products, rates.experts) == ({}, {})


def test_a_model_without_experts_has_no_rate_of_them(calls):
    dense = MiMoConfig(
        hidden_size=256, num_hidden_layers=1, hybrid_layer_pattern=(0,), moe_layer_freq=(0,)
    )
    assert measure_decoding(dense, ["BF16"]).experts == {}


def test_rows_without_whole_blocks_have_a_format_of_small_ones(calls):
    assert module._weight("q4_k", 4, 128).format == "q8_0"
    assert module._weight("q4_k", 4, 256).format == "q4_k"


def test_a_layer_takes_time():
    assert module._layer_seconds() > 0
