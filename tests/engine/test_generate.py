"""generate: a batch is answered as its rows alone; what is suppressed is never chosen."""

import numpy as np
import pytest

from mimo_v2_flash.engine.generate import generate
from mimo_v2_flash.engine.sampling_params import SamplingParams
from tests.support.engine_model import HistoryModel, logits_after

PROMPTS = [[1, 2, 3], [4], [1, 2, 3], [5] * 9]
SAMPLED = SamplingParams(max_tokens=6, temperature=1.0, seed=3)


def test_rows_are_greedy_continuations_up_to_a_limit_or_an_end_token():
    params = SamplingParams(max_tokens=6, stop_token_ids=(7, 11))
    new_tokens = generate(HistoryModel(), PROMPTS, params)
    for prompt, new in zip(PROMPTS, new_tokens, strict=True):
        expected = []
        while len(expected) < 6 and not {7, 11}.intersection(expected[-1:]):
            expected.append(int(np.argmax(logits_after([*prompt, *expected], 23))))
        assert new == expected


def test_equal_prompts_have_noise_of_their_own_and_a_seed_repeats_it():
    new_tokens = generate(HistoryModel(), PROMPTS, SAMPLED)
    assert (new_tokens.seed, new_tokens[0] == new_tokens[2]) == (3, False)
    assert generate(HistoryModel(), PROMPTS, SAMPLED) == new_tokens
    assert generate(HistoryModel(), PROMPTS[:2], SAMPLED) == new_tokens[:2]


def test_without_a_seed_a_fresh_one_is_drawn_and_told():
    fresh = SamplingParams(max_tokens=6, temperature=1.0)
    first, second = (generate(HistoryModel(), PROMPTS, fresh) for _ in range(2))
    assert first.seed != second.seed
    again = SamplingParams(max_tokens=6, temperature=1.0, seed=first.seed)
    assert generate(HistoryModel(), PROMPTS, again) == first


def test_every_token_is_reported_as_it_is_chosen():
    reported: list[tuple[int, int]] = []
    new_tokens = generate(
        HistoryModel(), PROMPTS, SAMPLED, on_token=lambda *pair: reported.append(pair)
    )
    assert [[token for row, token in reported if row == r] for r in range(4)] == new_tokens
    assert [row for row, _ in reported[:8]] == [0, 1, 2, 3] * 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_suppressed_tokens_are_never_chosen(temperature):
    params = SamplingParams(max_tokens=12, temperature=temperature, seed=0)
    free = generate(HistoryModel(), PROMPTS, params)
    common = {token for row in free for token in row[:3]}
    rows = generate(HistoryModel(), PROMPTS, params, suppress_tokens=sorted(common))
    assert [len(row) for row in rows] == [12] * 4
    assert common.isdisjoint(token for row in rows for token in row)


def test_greedily_the_logits_are_asked_for_only_if_a_suppressed_token_is_best():
    params = SamplingParams(max_tokens=5)
    model = HistoryModel()
    (tokens,) = generate(model, [[1]], params)
    absent = next(token for token in range(23) if token not in tokens)
    once, twice = HistoryModel(), HistoryModel()
    assert generate(once, [[1]], params, suppress_tokens=[absent]) == [tokens]
    generate(twice, [[1]], params, suppress_tokens=[tokens[2]])
    assert (len(model.steps), len(once.steps)) == (5, 5)
    assert len(twice.steps) > 5


def test_a_row_without_usable_logits_ends_the_batch_with_its_error():
    with pytest.raises(ValueError, match="NaN or infinity in row 1: embedding"):
        generate(HistoryModel(nan_after=4), PROMPTS, SAMPLED)


def test_a_model_without_heads_drafts_nothing():
    with pytest.raises(ValueError, match="draft_tokens is 1, but the model has 0 MTP heads"):
        generate(HistoryModel(mtp_heads=0), PROMPTS, SAMPLED, draft_tokens=1)
