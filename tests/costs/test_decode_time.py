"""The expected time of a step: each byte once, experts by how many tokens choose them, misses."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.isq_table import IsqRequest, IsqRow
from mimo_v2_flash.checkpoint.weight_counts import CountedRow
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs.decode_time import DecodeRates, decode_time, touched_experts
from mimo_v2_flash.costs.placement import Placement

CONFIG = MiMoConfig()
EXPERT = "model.layers.1.mlp.experts.0.up_proj.weight"
ROWS = {  # name: format, bytes, how many
    "model.embed_tokens.weight": ("BF16", 7_000, 1),
    "model.layers.0.self_attn.q_proj.weight": ("fp8", 3_000, 1),
    "lm_head.weight": ("BF16", 5_000, 1),
    "model.mtp.layers.0.eh_proj.weight": ("BF16", 900, 1),
    EXPERT: ("fp8", 40, 256),
}


def placement(expert_cache: int | None = None) -> Placement:
    table = [
        CountedRow(IsqRow(name, (1, 1), "", form, size, ""), number)
        for name, (form, size, number) in ROWS.items()
    ]
    return Placement("x", IsqRequest(), table, 0, expert_cache)


def test_a_token_reads_matrices_and_its_experts_but_no_embedding_and_no_draft_head():
    time = decode_time(placement(), CONFIG, DecodeRates(100.0), batch_size=1, kv_bytes=600)
    assert time.weights == (3_000 + 5_000) / 100
    assert time.experts == pytest.approx(8 * 40 / 100)
    assert (time.cache, time.disk, time.layers) == (6, 0, 0)
    assert time.tokens_per_second == pytest.approx(1 / (80 + 3.2 + 6))


def test_each_format_has_its_rate():
    rates = DecodeRates(100.0, layer_seconds=2, products={"fp8": 30.0}, experts={"fp8": 10.0})
    time = decode_time(placement(), CONFIG, rates, batch_size=1, kv_bytes=0)
    assert time.weights == 3_000 / 30 + 5_000 / 100
    assert time.experts == pytest.approx(8 * 40 / 10)
    assert time.layers == 2 * 48


def test_a_store_reads_what_it_lacks_if_the_disk_is_known():
    quarter = placement(256 * 40 // 4)
    known = decode_time(quarter, CONFIG, DecodeRates(100.0, disk=5.0), batch_size=1, kv_bytes=0)
    assert known.disk == pytest.approx(8 * 40 * 0.75 / 5)
    unknown = decode_time(quarter, CONFIG, DecodeRates(100.0), batch_size=1, kv_bytes=0)
    assert (unknown.disk, unknown.seconds, unknown.tokens_per_second) == (None, None, None)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 4))
def test_touched_experts_are_those_of_many_draws(experts, batch_size, seed):
    chosen = np.random.default_rng(seed).integers(1, experts + 1)
    config = replace(CONFIG, n_routed_experts=experts, num_experts_per_tok=int(chosen))
    missed = math.comb(experts - 1, int(chosen)) / math.comb(experts, int(chosen))
    assert touched_experts(config, batch_size) == pytest.approx(1 - missed**batch_size)


def test_tokens_of_a_step_share_what_they_read():
    one, many = (
        decode_time(placement(), CONFIG, DecodeRates(100.0), batch_size=n, kv_bytes=0)
        for n in (1, 32)
    )
    assert one.weights == many.weights
    assert one.experts < many.experts < 32 * one.experts
    assert many.tokens_per_second > one.tokens_per_second


def test_rates_scale_with_cores_up_to_the_memory():
    rates = DecodeRates(10.0, 3.0, 0.5, {"fp8": 4.0}, {"fp8": 2.0}).scaled(4, 12.0)
    assert rates == DecodeRates(12.0, 3.0, 0.5, {"fp8": 12.0}, {"fp8": 8.0})
