"""generate: rows do not affect each other, a token is computed once and yielded at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.generation.loop import collect_tokens, generate, pad_rows
from mimo_v2_flash.generation.sampling import Sampler, SamplingParams

VOCABULARY = 5
prompts_of_any_length = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6), min_size=1, max_size=4
)
end_token_sets = st.sampled_from([set(), {0}, {1, 2}])


def logits_after(history) -> np.ndarray:
    """Return logits that every token of `history` changes."""
    return np.random.default_rng(list(history)).standard_normal(VOCABULARY).astype(np.float32)


class RecordingModel:
    """A model that records its input tokens and checks that none is repeated or left out.

    `sampler` draws its tokens.
    """

    def __init__(self, rows: int, sampler: Sampler | None = None) -> None:
        self.sampler = sampler or drawing()
        self.received: list[list[int]] = [[] for _ in range(rows)]
        self.shapes: list[tuple[int, ...]] = []

    def choose(self, token_BT, position_BT, last_B, rows, histories) -> np.ndarray:
        """Return the next tokens of `rows`, by the logits after the tokens at `last_B`."""
        self.shapes.append(token_BT.shape)
        inputs = zip(self.received, token_BT, position_BT, last_B, strict=True)
        logits_BV = np.stack([self._logits(*row) for row in inputs])
        return self.sampler.draw(logits_BV[rows], rows, histories)

    def _logits(self, received, token_T, position_T, last) -> np.ndarray:
        count = int(np.sum(position_T >= 0))
        expected = [*range(len(received), len(received) + count), *[-1] * (len(position_T) - count)]
        assert position_T.tolist() == expected
        if not count:
            return np.full(VOCABULARY, np.nan, np.float32)  # the logits of padding are not used
        received += token_T[:count].tolist()
        return logits_after(received[: len(received) - count + int(last) + 1])


def drawing(*, seed=0, temperature=0.0) -> Sampler:
    return Sampler(SamplingParams(temperature=temperature), seed)


def run_loop(prompts, *, limit=8, ends=(), sampler=None) -> tuple[list[list[int]], RecordingModel]:
    """Return each row's new tokens, and the model."""
    model = RecordingModel(len(prompts), sampler)
    drawn = generate(model.choose, prompts, limit, ends)
    return collect_tokens(drawn, len(prompts), None), model


def greedy_tokens(prompt, limit: int, ends) -> list[int]:
    """Return the greedy tokens after one prompt, computed without the loop."""
    new: list[int] = []
    while len(new) < limit and not (new and new[-1] in ends):
        new.append(int(np.argmax(logits_after([*prompt, *new]))))
    return new


@given(prompts_of_any_length, st.integers(0, 8), end_token_sets)
def test_every_row_is_answered_as_if_it_were_alone(prompts, limit, ends):
    new_tokens, _ = run_loop(prompts, limit=limit, ends=ends)
    assert new_tokens == [greedy_tokens(prompt, limit, ends) for prompt in prompts]


@given(prompts_of_any_length, st.integers(1, 8), end_token_sets)
def test_every_token_but_the_last_is_shown_once(prompts, limit, ends):
    new_tokens, model = run_loop(prompts, limit=limit, ends=ends)
    expected = [[*prompt, *new[:-1]] for prompt, new in zip(prompts, new_tokens, strict=True)]
    assert model.received == expected
    steps = max(map(len, new_tokens))
    first = len(prompts), max(map(len, prompts))
    assert model.shapes == [first, *[(len(prompts), 1)] * (steps - 1)]


@given(prompts_of_any_length, st.integers(0, 2**32), end_token_sets)
def test_a_drawn_row_depends_on_its_seed_and_number_alone(prompts, seed, ends):
    def draw(prompts) -> list[list[int]]:
        return run_loop(prompts, ends=ends, sampler=drawing(seed=seed, temperature=1.0))[0]

    new_tokens, last = draw(prompts), len(prompts) - 1
    assert new_tokens[0] == draw(prompts[:1])[0]
    assert new_tokens[last] == draw([*[[0]] * last, prompts[last]])[last]


def test_rows_are_drawn_in_turn_until_they_end():
    prompts, ends = [[0], [1], [2, 3]], {0}
    drawn = [row for row, _ in generate(RecordingModel(3).choose, prompts, 8, ends)]
    lengths = [len(greedy_tokens(prompt, 8, ends)) for prompt in prompts]
    assert len(set(lengths)) > 1
    assert drawn == [row for turn in range(8) for row in range(3) if turn < lengths[row]]


def test_a_token_is_handed_out_before_the_next_step():
    model = RecordingModel(2)
    tokens = generate(model.choose, [[0], [1]], 8, ())
    for steps in (1, 1, 2, 2, 3):
        next(tokens)
        assert len(model.shapes) == steps


def test_the_callback_gets_every_token_as_it_comes():
    calls: list[tuple[int, int]] = []
    drawn = iter([(1, 7), (0, 8), (1, 9)])
    new_tokens = collect_tokens(drawn, 3, lambda *call: calls.append(call))
    assert new_tokens == [[8], [7, 9], []]
    assert calls == [(1, 7), (0, 8), (1, 9)]


def test_nothing_is_computed_for_no_tokens():
    new_tokens, model = run_loop([[0], [1]], limit=0)
    assert (new_tokens, model.shapes) == ([[], []], [])


def test_the_end_token_is_given_and_ends_its_row_alone():
    free, _ = run_loop([[0], [1]])
    end = free[0][2]
    new_tokens, _ = run_loop([[0], [1]], ends={end})
    assert new_tokens[0] == free[0][: free[0].index(end) + 1]
    assert new_tokens[1] == greedy_tokens([1], 8, {end})


class Spy(Sampler):
    """A sampler that records the rows and histories of every draw."""

    def __init__(self) -> None:
        super().__init__(SamplingParams(), 0)
        self.seen: list[tuple[list[int], list[list[int]]]] = []

    def draw(self, logits_NV, rows, histories):
        """Record rows and histories, and draw."""
        self.seen.append((list(rows), [list(history) for history in histories]))
        return super().draw(logits_NV, rows, histories)


def test_the_sampler_sees_the_prompt_and_what_followed():
    spy = Spy()
    (new, _), _ = run_loop([[3, 4], [1]], limit=3, sampler=spy)
    assert [rows for rows, _ in spy.seen] == [[0, 1]] * 3
    assert [histories[0] for _, histories in spy.seen] == [[3, 4, *new[:n]] for n in range(3)]


@pytest.mark.parametrize(
    ("rows", "starts", "token_BT", "position_BT"),
    [
        ([[7, 8], [9]], [0, 3], [[7, 8], [9, 0]], [[0, 1], [3, -1]]),
        ([[], [9]], [5, 0], [[0], [9]], [[-1], [0]]),
        ([[7]], [2], [[7]], [[2]]),
    ],
)
def test_rows_are_padded_behind(rows, starts, token_BT, position_BT):
    tokens, positions = pad_rows(rows, starts)
    assert tokens.dtype == positions.dtype == np.int32
    assert (tokens.tolist(), positions.tolist()) == (token_BT, position_BT)
