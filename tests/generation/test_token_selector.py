"""token_selector: greedy tokens come from the model's argmax, sampled ones from its logits."""

import numpy as np
import pytest

from mimo_v2_flash.generation.generation_config import GenerationConfig
from mimo_v2_flash.generation.token_selector import make_token_selector

LOGITS_B1V = np.array([[[1, 3, 3]], [[5, 4, 0]], [[0, 0, 9]]], np.float32)
HISTORIES = [[1], [0, 2]]
ROWS = [0, 2]
STEP = np.zeros((3, 1), np.int32), np.zeros((3, 1), np.int32), np.zeros(3, int)


class FixedLogits:
    """A model with fixed logits that records which outputs were requested."""

    def __init__(self, logits_B1V=LOGITS_B1V) -> None:
        self.logits_B1V, self.requests = logits_B1V, []

    def step(self, token_BT, position_BT, cache, *, logits_at):
        """Return the logits."""
        self.requests.append("logits")
        return self.logits_B1V

    def greedy(self, token_BT, position_BT, cache, *, at):
        """Return the best token of each row and its logit."""
        self.requests.append("tokens")
        return np.argmax(self.logits_B1V, axis=2), np.max(self.logits_B1V, axis=2)


def chosen(model, **settings) -> list[int]:
    choose = make_token_selector(model, None, GenerationConfig(**settings), 0)
    return choose(*STEP, ROWS, HISTORIES).tolist()


@pytest.mark.parametrize("settings", [{}, {"top_k": 2, "top_p": 0.5, "min_p": 0.1}])
def test_a_greedy_choice_asks_for_tokens_alone(settings):
    model = FixedLogits()
    assert chosen(model, **settings) == [1, 2]
    assert model.requests == ["tokens"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"repetition_penalty": 4.0}, [2, 2]), ({"temperature": 1e-3}, [(1, 2), 2])],
)
def test_every_other_choice_asks_for_logits(settings, expected):
    model = FixedLogits()
    for token, allowed in zip(chosen(model, **settings), expected, strict=True):
        assert token in np.atleast_1d(allowed)
    assert model.requests == ["logits"]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}])
def test_unusable_logits_are_refused_and_their_row_is_named(settings):
    broken = LOGITS_B1V.copy()
    broken[2, 0, 1] = np.nan
    with pytest.raises(ValueError, match="the logits of row 2 hold NaN"):
        chosen(FixedLogits(broken), **settings)
    broken[2, 0], broken[1, 0] = LOGITS_B1V[2, 0], np.nan  # a row that has ended
    assert chosen(FixedLogits(broken), **settings)[1] == 2


@pytest.mark.parametrize("temperature", [0.0, 1e-3])
def test_suppressed_tokens_are_never_selected(temperature):
    model = FixedLogits()
    settings = {"temperature": temperature, "suppress_tokens": (1, 2)}
    assert chosen(model, **settings) == [0, 0]
    assert model.requests == ["tokens"] * (temperature == 0) + ["logits"]
    np.testing.assert_array_equal(model.logits_B1V, LOGITS_B1V)


def test_greedily_logits_are_asked_for_only_if_a_suppressed_token_is_best():
    model = FixedLogits()
    assert chosen(model, suppress_tokens=(0,)) == [1, 2]
    assert model.requests == ["tokens"]


@pytest.mark.parametrize("unusable", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_suppressed_token_may_have_any_logit(unusable, temperature):
    broken = LOGITS_B1V.copy()
    broken[:, 0, 0] = unusable
    settings = {"temperature": temperature, "suppress_tokens": (0, 1)}
    assert chosen(FixedLogits(broken), **settings) == [2, 2]


def test_a_mistaken_seed_is_refused():
    with pytest.raises(ValueError, match="seed is -1"):
        make_token_selector(FixedLogits(), None, GenerationConfig(), -1)
