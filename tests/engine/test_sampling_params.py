"""sampling_params: greedy by default, and every value that means nothing is refused by name."""

import math
import re
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest

from mimo_v2_flash.engine.sampling_params import MAX_LOGPROBS, SamplingParams

NAN, INF, TOKENS = float("nan"), float("inf"), 2**20
NOT_COUNTS = [-1, 1.5, True, "1", NAN, [1]]
NOT_REALS = [NAN, INF, -INF, "1", True, [1.0], 1j]
REFUSED = {
    "max_tokens": NOT_COUNTS,
    "temperature": [*NOT_REALS, -0.1, 1.1e30, None],
    "top_k": [*NOT_COUNTS[1:], -2, None],
    "top_p": [*NOT_REALS, -0.1, 1.01, None],
    "min_p": [*NOT_REALS, -0.1, 1.01, None],
    "repetition_penalty": [*NOT_REALS, 0, -1.0, 9e-31, 1.1e30, None],
    "presence_penalty": [*NOT_REALS, 1.1e30, -1.1e30, None],
    "frequency_penalty": [*NOT_REALS, 1.1e30, -1.1e30, None],
    "logit_bias": [
        None,
        3,
        [(1, 2.0)],
        {-1: 1.0},
        {1.5: 1.0},
        {1: NAN},
        {1: INF},
        {1: -1.1e30},
        {1: "1"},
    ],
    "stop_token_ids": [None, 3, [-1], [1.5], ["1"], [True], "12", [None]],
    "ignore_eos": [None, 1, 0, "yes", np.int64(1)],
    "min_tokens": [*NOT_COUNTS, None],
    "logprobs": [*NOT_COUNTS, MAX_LOGPROBS + 1],
    "prompt_logprobs": [*NOT_COUNTS, MAX_LOGPROBS + 1],
    "n": [*NOT_COUNTS, 0, None],
    "seed": [*NOT_COUNTS, 2**64],
}
ACCEPTED = {
    "max_tokens": [None, 0, 1, TOKENS, np.int64(3)],
    "temperature": [0, 5e-324, 0.7, 1e30, np.float32(0.5), Fraction(1, 3)],
    "top_k": [-1, 0, 1, 20.0, TOKENS, np.int32(4)],
    "top_p": [0, 1e-300, 0.5, 1],
    "min_p": [0, 0.5, 1],
    "repetition_penalty": [1e-30, 1, 2.5, 1e30],
    "presence_penalty": [-1e30, 0, 2.0, 1e30],
    "frequency_penalty": [-1e30, 0, 2.0, 1e30],
    "logit_bias": [{}, {0: -1e30}, {np.int64(5): 1.5, TOKENS: 100}],
    "stop_token_ids": [(), [0], {1, 2}, (np.int64(7),), frozenset({3})],
    "ignore_eos": [True, False],
    "min_tokens": [0, 1, TOKENS],
    "logprobs": [None, 0, MAX_LOGPROBS],
    "prompt_logprobs": [None, 0, MAX_LOGPROBS],
    "n": [1, 128],
    "seed": [None, 0, 2**64 - 1, np.uint64(2**64 - 1)],
}


def pairs(values: dict) -> list:
    return [pytest.param(name, v, id=f"{name}={v!r}") for name in values for v in values[name]]


@pytest.mark.parametrize(("name", "value"), pairs(REFUSED))
def test_a_value_that_means_nothing_is_refused_by_its_name(name, value):
    with pytest.raises(
        ValueError, match=f"^{name} is {re.escape(repr(value))}, allowed is ."
    ) as info:
        SamplingParams(**{name: value})
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(("name", "value"), pairs(ACCEPTED))
def test_a_value_that_means_something_is_kept(name, value):
    kept = getattr(SamplingParams(**{name: value}), name)
    assert kept == (tuple(value) if name == "stop_token_ids" else value)


def test_every_field_is_in_both_tables():
    names = {field.name for field in fields(SamplingParams)}
    assert names == set(REFUSED) == set(ACCEPTED)


def test_the_default_is_greedy_and_everything_off():
    params = SamplingParams()
    assert params.is_greedy
    assert not params.has_penalties
    off = SamplingParams(
        None,
        0.0,
        0,
        1.0,
        0.0,
        1.0,
        0.0,
        0.0,
        {},
        (),
        False,
        0,
        None,
        None,
        1,
        None,
    )
    assert params == off


@pytest.mark.parametrize(
    ("changed", "is_greedy", "has_penalties"),
    [
        ({"temperature": 1e-9}, False, False),
        ({"repetition_penalty": 1.1}, False, True),
        ({"presence_penalty": 0.1}, False, True),
        ({"frequency_penalty": -0.1}, False, True),
        ({"logit_bias": {3: 1.0}}, False, False),
        ({"top_k": 5, "top_p": 0.5, "min_p": 0.1, "n": 3, "seed": 4}, True, False),
    ],
)
def test_what_changes_the_choice_is_not_greedy(changed, is_greedy, has_penalties):
    params = SamplingParams(**changed)
    assert (params.is_greedy, params.has_penalties) == (is_greedy, has_penalties)


def test_it_cannot_be_changed():
    with pytest.raises(AttributeError):
        SamplingParams().temperature = 1.0


def test_a_list_that_changes_later_does_not_change_it():
    tokens = [5]
    params = SamplingParams(stop_token_ids=tokens)
    tokens.append(6)
    assert params.stop_token_ids == (5,)
    bias = {1: 2.0}
    params = SamplingParams(logit_bias=bias)
    bias[7] = math.pi
    assert params.logit_bias == {1: 2.0}
