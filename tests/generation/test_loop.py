"""The loop: every row as if it were alone, every token shown once, and each as soon as drawn."""

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
end_sets = st.sampled_from([set(), {0}, {1, 2}])


def logits_after(history) -> np.ndarray:
    """Return logits that every token of `history` changes."""
    return np.random.default_rng(list(history)).standard_normal(VOCABULARY).astype(np.float32)


class Listener:
    """A model that remembers what it was shown, and refuses what it has seen or would miss.

    Its tokens are drawn by `sampler`.
    """

    def __init__(self, rows: int, sampler: Sampler | None = None) -> None:
        self.sampler = sampler or drawing()
        self.heard: list[list[int]] = [[] for _ in range(rows)]
        self.shapes: list[tuple[int, ...]] = []

    def choose(self, token_BT, position_BT, last_B, rows, histories) -> np.ndarray:
        """Return the next tokens of `rows`, by the logits after the tokens at `last_B`."""
        self.shapes.append(token_BT.shape)
        shown = zip(self.heard, token_BT, position_BT, last_B, strict=True)
        logits_BV = np.stack([self._show(*row) for row in shown])
        return self.sampler.draw(logits_BV[rows], rows, histories)

    def _show(self, heard, token_T, position_T, last) -> np.ndarray:
        count = int(np.sum(position_T >= 0))
        expected = [*range(len(heard), len(heard) + count), *[-1] * (len(position_T) - count)]
        assert position_T.tolist() == expected
        if not count:
            return np.full(VOCABULARY, np.nan, np.float32)  # nobody may look at padding
        heard += token_T[:count].tolist()
        return logits_after(heard[: len(heard) - count + int(last) + 1])


def drawing(*, seed=0, temperature=0.0) -> Sampler:
    return Sampler(SamplingParams(temperature=temperature), seed)


def answered(prompts, *, limit=8, ends=(), sampler=None) -> tuple[list[list[int]], Listener]:
    """Return each row's tokens, and who listened."""
    listener = Listener(len(prompts), sampler)
    drawn = generate(listener.choose, prompts, limit, ends)
    return collect_tokens(drawn, len(prompts), None), listener


def answered_alone(prompt, limit: int, ends) -> list[int]:
    """Return the greedy tokens after one prompt, as plainly as possible."""
    new: list[int] = []
    while len(new) < limit and not (new and new[-1] in ends):
        new.append(int(np.argmax(logits_after([*prompt, *new]))))
    return new


@given(prompts_of_any_length, st.integers(0, 8), end_sets)
def test_every_row_is_answered_as_if_it_were_alone(prompts, limit, ends):
    answers, _ = answered(prompts, limit=limit, ends=ends)
    assert answers == [answered_alone(prompt, limit, ends) for prompt in prompts]


@given(prompts_of_any_length, st.integers(1, 8), end_sets)
def test_every_token_but_the_last_is_shown_once(prompts, limit, ends):
    answers, listener = answered(prompts, limit=limit, ends=ends)
    expected = [[*prompt, *new[:-1]] for prompt, new in zip(prompts, answers, strict=True)]
    assert listener.heard == expected
    steps = max(map(len, answers))
    first = len(prompts), max(map(len, prompts))
    assert listener.shapes == [first, *[(len(prompts), 1)] * (steps - 1)]


@given(prompts_of_any_length, st.integers(0, 2**32), end_sets)
def test_a_drawn_row_depends_on_its_seed_and_number_alone(prompts, seed, ends):
    def drawn(prompts) -> list[list[int]]:
        return answered(prompts, ends=ends, sampler=drawing(seed=seed, temperature=1.0))[0]

    answers, last = drawn(prompts), len(prompts) - 1
    assert answers[0] == drawn(prompts[:1])[0]
    assert answers[last] == drawn([*[[0]] * last, prompts[last]])[last]


def test_rows_are_drawn_in_turn_until_they_end():
    prompts, ends = [[0], [1], [2, 3]], {0}
    drawn = [row for row, _ in generate(Listener(3).choose, prompts, 8, ends)]
    lengths = [len(answered_alone(prompt, 8, ends)) for prompt in prompts]
    assert len(set(lengths)) > 1
    assert drawn == [row for turn in range(8) for row in range(3) if turn < lengths[row]]


def test_a_token_is_handed_out_before_the_next_step():
    listener = Listener(2)
    stream = generate(listener.choose, [[0], [1]], 8, ())
    for steps in (1, 1, 2, 2, 3):
        next(stream)
        assert len(listener.shapes) == steps


def test_who_listens_is_told_of_every_token_as_it_comes():
    told: list[tuple[int, int]] = []
    answers = collect_tokens(iter([(1, 7), (0, 8), (1, 9)]), 3, lambda *drawn: told.append(drawn))
    assert answers == [[8], [7, 9], []]
    assert told == [(1, 7), (0, 8), (1, 9)]


def test_nothing_is_computed_for_no_tokens():
    answers, listener = answered([[0], [1]], limit=0)
    assert (answers, listener.shapes) == ([[], []], [])


def test_the_end_token_is_given_and_ends_its_row_alone():
    free, _ = answered([[0], [1]])
    end = free[0][2]
    answers, _ = answered([[0], [1]], ends={end})
    assert answers[0] == free[0][: free[0].index(end) + 1]
    assert answers[1] == answered_alone([1], 8, {end})


class Spy(Sampler):
    """A sampler that takes down what it may look at."""

    def __init__(self) -> None:
        super().__init__(SamplingParams(), 0)
        self.seen: list[tuple[list[int], list[list[int]]]] = []

    def draw(self, logits_NV, rows, histories):
        """Take down rows and histories, and draw."""
        self.seen.append((list(rows), [list(history) for history in histories]))
        return super().draw(logits_NV, rows, histories)


def test_the_sampler_sees_the_prompt_and_what_followed():
    spy = Spy()
    (new, _), _ = answered([[3, 4], [1]], limit=3, sampler=spy)
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
