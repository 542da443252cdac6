"""Experts in formats of blocks, in one compiled call and beside experts in another format."""

import numpy as np

from mimo_v2_flash.checkpoint.params import ExpertWeights
from mimo_v2_flash.layers import eager_experts as eager
from mimo_v2_flash.quantization import get_format
from tests.support.chosen_experts import ChosenExperts, assert_is_oracle
from tests.support.routed import random_choices
from tests.support.stored_weights import random_float8, random_rows

D, F = 256, 512


def random_expert(generator, name: str) -> tuple:
    form = get_format(name)
    return tuple(
        form.quantize(random_float8(generator, *shape)) for shape in ((F, D), (F, D), (D, F))
    )


def assert_experts(names: list[str], monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(eager, "grouped_experts", lambda *args: calls.append(args))
    generator = np.random.default_rng(0)
    experts = ExpertWeights.of(random_expert(generator, name) for name in names)
    weight_NA, expert_NA = random_choices(generator, N=9, A=2, E=len(names) + 1)
    x_ND = random_rows(generator, 9, D) / np.float32(1000)
    step = ChosenExperts(x_ND, weight_NA, expert_NA, experts)
    assert_is_oracle(eager.eager_experts(*step), step)
    assert calls == []


def test_experts_of_blocks_are_one_call(monkeypatch):
    assert_experts(["q8_0"] * 3, monkeypatch)


def test_experts_of_other_formats_may_be_beside_them(monkeypatch):
    assert_experts(["q8_0", "fp8", "q8_0"], monkeypatch)
