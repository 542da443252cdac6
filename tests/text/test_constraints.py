"""constraints: stop strings and thinking budgets end what the engine generates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import Engine, SamplingParams, load_model
from mimo_v2_flash.text.constraints import AllConstraints, StopStrings, ThinkingBudget
from mimo_v2_flash.text.output_parser import OutputParser
from mimo_v2_flash.text.tokenizer import tokens
from tests.support.chat_text import SHIPPED, shipped_tokenizer
from tests.support.engine_constraints import FixedMask
from tests.support.tiny_text import any_text, small_tokenizer

END, VOCABULARY = 8, 4096  # `</think>`


def stopped_at(constraint, token_T) -> int | None:
    """Return after how many tokens the constraint ends an answer."""
    verdicts = [constraint.accept(token) for token in token_T]
    return next((n for n, verdict in enumerate(verdicts, 1) if verdict == "stop"), None)


stop_lists = st.lists(st.text("the en\n世", min_size=1, max_size=3), min_size=1, max_size=3)


@given(any_text, stop_lists)
def test_an_answer_ends_with_the_token_that_completes_a_stop_string(text, stop):
    token_T = tokens(small_tokenizer(), text)
    texts = [small_tokenizer().decode(token_T[:n]) for n in range(len(token_T) + 1)]
    expected = next((n for n, t in enumerate(texts) if any(each in t for each in stop)), None)
    assert stopped_at(StopStrings(small_tokenizer(), stop), token_T) == expected


@pytest.mark.parametrize("min_tokens", range(5))
def test_an_answer_goes_on_for_so_many_tokens(min_tokens):
    token_T = tokens(small_tokenizer(), "a") * 8
    assert stopped_at(StopStrings(small_tokenizer(), ["a"], min_tokens), token_T) == min_tokens + 1


@given(any_text, any_text, stop_lists, st.data())
def test_tokens_that_are_taken_back_leave_nothing(text, draft, stop, data):
    kept, rejected = (tokens(small_tokenizer(), each)[:40] for each in (text, draft))
    constraint, expected = (StopStrings(small_tokenizer(), stop) for _ in range(2))
    cut = data.draw(st.integers(0, len(kept)))
    for token in kept[:cut]:
        constraint.accept(token)
        expected.accept(token)
    copied = constraint.copy()
    for token in rejected:
        constraint.accept(token)
    constraint.rollback(len(rejected))
    later = [expected.accept(token) for token in kept[cut:]]
    assert [constraint.accept(token) for token in kept[cut:]] == later
    assert [copied.accept(token) for token in kept[cut:]] == later


def test_more_than_there_is_cannot_be_taken_back():
    constraint = StopStrings(small_tokenizer(), ["a"])
    constraint.accept(5)
    with pytest.raises(ValueError, match="2 tokens to take back, there are 1"):
        constraint.rollback(2)
    for _ in range(100):
        constraint.accept(5)
    constraint.rollback(64)
    with pytest.raises(ValueError, match="1 tokens to take back, there are 0"):
        constraint.rollback(1)


def test_stop_strings_allow_every_token():
    assert StopStrings(small_tokenizer(), ["a"]).mask() is None


@given(st.lists(st.integers(5, 9), max_size=12), st.integers(0, 6), st.data())
def test_thinking_ends_within_its_budget(token_T, limit, data):
    """Drafts are taken back in between."""
    budget, accepted = ThinkingBudget(shipped_tokenizer(), limit, VOCABULARY), []
    for token in token_T:
        mask_V = budget.mask()
        is_over = END not in accepted and len(accepted) >= limit
        assert (mask_V is not None) == is_over
        if mask_V is not None:
            assert np.flatnonzero(mask_V).tolist() == [END]
        token = END if is_over else token  # noqa: PLW2901
        drafts = data.draw(st.lists(st.integers(5, 9), max_size=3))
        for draft in drafts:
            budget.accept(draft)
        budget.rollback(len(drafts))
        budget = budget.copy() if data.draw(st.booleans()) else budget
        assert budget.accept(token) is None
        accepted.append(token)
    assert END in accepted[: limit + 1] or len(accepted) <= limit


def test_a_budget_needs_a_marker_and_a_number():
    with pytest.raises(ValueError, match="the tokenizer has no </think>"):
        ThinkingBudget(small_tokenizer(), 5, 300)
    with pytest.raises(ValueError, match="limit"):
        ThinkingBudget(shipped_tokenizer(), -1, VOCABULARY)


def test_several_constraints_are_one():
    masks = [np.arange(5) < 3, np.arange(5) > 1]
    both = AllConstraints(*map(FixedMask, masks), StopStrings(small_tokenizer(), ["a"]))
    assert np.flatnonzero(both.mask()).tolist() == [2]
    assert AllConstraints(StopStrings(small_tokenizer(), ["a"])).mask() is None
    assert AllConstraints().mask() is None


def test_several_constraints_end_and_go_back_together():
    budget = ThinkingBudget(shipped_tokenizer(), 1, VOCABULARY)
    both = AllConstraints(StopStrings(shipped_tokenizer(), ["list"]), budget)
    (token,) = tokens(shipped_tokenizer(), "list")
    copied = both.copy()
    assert both.accept(token) == "stop"
    assert both.mask() is not None
    both.rollback(1)
    assert both.mask() is copied.mask() is None
    assert copied.accept(token) == both.accept(token) == "stop"


@pytest.fixture(scope="module")
def model():
    return load_model(SHIPPED)


def test_the_engine_ends_an_answer_at_a_stop_string_and_the_parser_cuts_it(model):
    tokenizer = shipped_tokenizer()
    prompt, params = tokens(tokenizer, "A list is"), SamplingParams(max_tokens=24, ignore_eos=True)
    with Engine(model, max_length=64) as engine:
        id_ = engine.submit(prompt, params)
        free = engine.run()[id_]
        text = tokenizer.decode(free.tokens)
        stop = [text[20:26], "never"]
        id_ = engine.submit(prompt, params, constraint=StopStrings(tokenizer, stop))
        output = engine.run()[id_]
    assert output.finish_reason == "stop"
    assert output.tokens == free.tokens[: len(output.tokens)]
    parser = OutputParser(tokenizer, stop=stop)
    deltas = [delta for token in output.tokens for delta in parser.push(token)] + parser.end()
    assert "".join(delta.content or "" for delta in deltas) == text[: text.index(stop[0])]
    assert parser.stop_reason == stop[0]


def test_the_engine_ends_thinking_in_time(model):
    tokenizer = shipped_tokenizer()
    budget = ThinkingBudget(tokenizer, 3, model.config.vocab_size)
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    with Engine(model, max_length=64) as engine:
        id_ = engine.submit(tokens(tokenizer, "A list is"), params, constraint=budget)
        output = engine.run()[id_]
    assert output.tokens.index(END) == 3
    assert len(output.tokens) == 6
