"""drafter: as many drafts as there are heads, of what is allowed; answers as without them."""

import numpy as np
import pytest

from mimo_v2_flash import load_model
from mimo_v2_flash.engine import Engine, SamplingParams, drafter, prefix_store, scheduler
from mimo_v2_flash.engine.worker import drafting_heads
from mimo_v2_flash.parallel import ThreadGroup
from tests.support.engine_constraints import FixedMask, TrieConstraint
from tests.support.engine_model import HistoryModel, logits_after
from tests.support.engine_oracle import answer_alone
from tests.support.shipped import FOLDER

V = 11
PROMPT = [1, 2, 3, 4, 5, 6, 7]


def model_of(**options) -> HistoryModel:
    return HistoryModel(V, 60, **options)


def answer(model, params, *, drafts: int, prompt=PROMPT, constraint=None):
    """Return a request's answer, and the engine's statistics."""
    with Engine(model, 4, draft_tokens=drafts) as engine:
        id_ = engine.submit(prompt, params, constraint=constraint)
        return engine.run()[id_].answers[0], engine.stats


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_every_step_has_as_many_drafts_as_there_are_heads_and_tokens_left(drafts):
    model = model_of()
    _, stats = answer(model, SamplingParams(max_tokens=20), drafts=drafts)
    widths = [position_BT.shape[1] for _, position_BT in model.steps[1:]]
    tokens = np.cumsum([1, *widths])  # if all were accepted: an upper bound
    assert set(widths[:3]) == {1 + drafts}
    assert max(widths) == 1 + drafts
    assert all(position_BT.max() < len(PROMPT) + 19 for _, position_BT in model.steps)
    assert len(tokens) == len(model.steps)
    assert stats.drafted[drafts:] == (0,) * (3 - drafts)
    assert stats.tokens_per_step == 19 / len(model.steps[1:])
    assert sum(stats.accepted) == 19 - len(model.steps[1:])
    assert stats.decode_tokens == 19
    assert stats.draft_seconds > 0


def test_a_head_reads_few_tokens_before_its_first_draft(monkeypatch):
    counts = []

    class CountingModel(HistoryModel):
        def draft(self, head, output, step, cache):
            counts.append((head, int(step.count_B.max())))
            return super().draft(head, output, step, cache)

    monkeypatch.setattr(drafter, "CATCH_UP", 2)
    expected, _ = answer(model_of(), SamplingParams(max_tokens=9), drafts=0)
    assert answer(CountingModel(V, 60), SamplingParams(max_tokens=9), drafts=2)[0] == expected
    assert counts[:2] == [(0, 2), (1, 3)]  # and the draft of the head before


def test_without_heads_drafts_are_refused_and_auto_has_none():
    model = model_of(mtp_heads=0)
    with pytest.raises(ValueError, match="draft_tokens is 1, but the model has 0 MTP heads"):
        Engine(model, draft_tokens=1)
    with pytest.raises(ValueError, match=r"draft_tokens is 'many', allowed is \"auto\" or 0\.\.0"):
        Engine(model, draft_tokens="many")
    expected, _ = answer(model_of(), SamplingParams(max_tokens=9), drafts=0)
    assert answer(model, SamplingParams(max_tokens=9), drafts="auto")[0] == expected


def test_auto_drafts_none_where_each_number_of_drafts_is_other_programs():
    padding, other = model_of(pads_steps=True), model_of()
    assert [drafting_heads(padding, drafts) for drafts in ("auto", 2)] == [0, 2]
    assert [drafting_heads(other, drafts) for drafts in ("auto", 2)] == [3, 2]


@pytest.mark.parametrize(("price", "least", "most"), [(0.05, 40, 200), (5.0, 0, 3)])
def test_auto_drafts_where_it_pays_and_changes_no_token(price, least, most):
    """The clock is the model's: a step takes longer by `price` for each draft that it verifies."""
    model = HistoryModel(V, 200)

    def seconds() -> float:
        return sum(1 + price * (tokens.shape[1] - 1) for tokens, _ in model.steps[1:])

    params = SamplingParams(max_tokens=150)
    with Engine(HistoryModel(V, 200), 1) as engine:
        engine.submit(PROMPT, params)
        (plain,) = engine.run().values()
    with Engine(model, 1, draft_tokens="auto", clock=seconds) as engine:
        engine.submit(PROMPT, params)
        (result,) = engine.run().values()
        assert least <= sum(engine.stats.drafted) <= most
    assert result.tokens == plain.tokens


def test_a_constraint_allows_the_drafts_too():
    params, branches = SamplingParams(max_tokens=20), [[1, 2, 3, 4, 5, 6], [1, 2, 4, 4, 3, 9]]
    for answers in (branches, branches[:1]):
        constraint = TrieConstraint(answers, V)
        expected, _ = answer(model_of(), params, drafts=0, constraint=constraint)
        actual, stats = answer(model_of(), params, drafts=3, constraint=constraint)
        assert actual == expected
        assert constraint.tokens == []
    assert stats.accepted == stats.drafted  # where one token alone is allowed every draft holds
    assert min(stats.drafted) > 0


def test_forbidden_tokens_are_never_drafted():
    mask_V = np.arange(V) < 3
    model = model_of()
    with Engine(model, 4, draft_tokens=3) as engine:
        engine.submit(PROMPT, SamplingParams(max_tokens=12), constraint=FixedMask(mask_V))
        engine.run()
    drafted = [token for token_BT, _ in model.steps[1:] for token in token_BT.reshape(-1)]
    assert set(drafted) <= {0, 1, 2}


def test_suppressed_tokens_are_never_drafted():
    model = model_of(suppressed=(4, 5))
    expected, _ = answer(model_of(suppressed=(4, 5)), SamplingParams(max_tokens=30), drafts=0)
    assert answer(model, SamplingParams(max_tokens=30), drafts=3)[0] == expected
    assert not {4, 5} & {token for token_BT, _ in model.steps[1:] for token in token_BT.flat}


@pytest.mark.parametrize("drafts", [1, 3])
def test_a_draft_that_makes_the_step_nan_is_refused(drafts):
    """Token 9 is followed by NaN: the model does not choose it, but a head may."""
    bias = {"logit_bias": {9: -60.0}}  # of the model's choice and the head's alike
    for prompt in ([1, 2, 3], [4, 5], [8, 8, 1]):
        for params in (SamplingParams(max_tokens=25), SamplingParams(max_tokens=25, **bias)):
            expected = answer_alone(
                lambda tokens: np.full(V, np.nan) if tokens[-1] == 9 else logits_after(tokens, V),
                prompt,
                params,
                max_length=60,
            )
            model = model_of(nan_after=9)
            actual, _ = answer(model, params, drafts=drafts, prompt=prompt)
            assert (actual.tokens, type(actual.error)) == (
                expected.tokens,
                expected.error or type(None),
            )


@pytest.mark.parametrize("drafts", [0, 2, 3])
def test_prefixes_of_answers_are_known_though_drafts_lie_behind_them(drafts, monkeypatch):
    for module in (prefix_store, scheduler):
        monkeypatch.setattr(module, "BLOCK", 4)
    with Engine(model_of(), 4, draft_tokens=drafts) as engine:
        first = engine.submit(PROMPT, SamplingParams(max_tokens=30))
        tokens = engine.run()[first].tokens
        second = engine.submit([*PROMPT, *tokens, 3], SamplingParams(max_tokens=9))
        result = engine.run()[second]
        assert engine.stats.reused_tokens >= len(PROMPT) + len(tokens) - 8
    expected = answer_alone(
        lambda seen: logits_after(seen, V),
        [*PROMPT, *tokens, 3],
        SamplingParams(max_tokens=9),
        max_length=60,
    )
    assert result.tokens == expected.tokens


def test_ranks_draft_together():
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=2)

    class Ranked(HistoryModel):
        def __init__(self, group) -> None:
            super().__init__(V, 60)
            self.group = group

    def program(rank: int):
        with Engine(Ranked(group), 4, draft_tokens=2, prefix_cache=1 << 20) as engine:
            if rank:
                return engine.follow()
            id_ = engine.submit(PROMPT, params)
            return engine.run()[id_].tokens

    group = ThreadGroup(2)
    assert group.run(program)[0] == answer(model_of(), params, drafts=0)[0].tokens


def test_the_shipped_heads_bring_two_tokens_a_step_and_change_none():
    model = load_model(FOLDER)
    params = [SamplingParams(max_tokens=24, temperature=t, seed=1) for t in (0.0, 0.0, 1.0)]
    prompts = [[0, *range(300, 320)], [0, 45, 300], [0, *range(50, 70)]]
    answers = []
    for drafts in (0, 3):
        with Engine(model, 3, 96, draft_tokens=drafts, prefix_cache=0) as engine:
            ids = [engine.submit(*pair) for pair in zip(prompts, params, strict=True)]
            results, stats = engine.run(), engine.stats
            answers.append([results[id_].tokens for id_ in ids])
    assert answers[0] == answers[1]
    assert stats.tokens_per_step > 1.5
