"""engine: whatever comes together, each request has the tokens that it has alone."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.engine import Engine, SamplingParams
from tests.support.engine_constraints import FailingConstraint, TrieConstraint
from tests.support.engine_model import HistoryModel, logits_after
from tests.support.engine_oracle import answer_alone, prompt_logprobs_alone, together

V, LENGTH, EOS, NAN_AFTER = 11, 24, (3, 7), 9
tokens = st.integers(0, V - 2)
prompts = st.lists(tokens, min_size=1, max_size=14)
SETS = [[1, 2, 3], [1, 2, 4, 4, 3], [5], [6, 6], [8]]


class Arrival(NamedTuple):
    """A request of a schedule: when it comes, and after how many steps it is cancelled."""

    prompt: list[int]
    params: SamplingParams
    constraint: Any
    priority: int
    first_index: int
    step: int
    patience: int | None


@st.composite
def sampling_params(draw) -> SamplingParams:
    """Draw settings, most of them off."""
    few = st.sampled_from
    return SamplingParams(
        max_tokens=draw(few([None, 0, 1, 2, 5, 9])),
        temperature=draw(few([0.0, 0.0, 0.7, 1.5])),
        top_k=draw(few([0, 0, 3])),
        top_p=draw(few([1.0, 1.0, 0.8])),
        min_p=draw(few([0.0, 0.0, 0.05])),
        repetition_penalty=draw(few([1.0, 1.0, 1.4])),
        presence_penalty=draw(few([0.0, 0.0, 0.6])),
        frequency_penalty=draw(few([0.0, 0.0, 0.6])),
        logit_bias=draw(few([{}, {}, {4: 3.0}])),
        stop_token_ids=draw(few([(), (), (0, 5)])),
        ignore_eos=draw(st.booleans()),
        min_tokens=draw(few([0, 0, 3])),
        logprobs=draw(few([None, None, 0, 2])),
        prompt_logprobs=draw(few([None, None, None, 0, 2])),
        n=draw(few([1, 1, 1, 2, 3])),
        seed=draw(st.integers(0, 3)),
    )


constraints = st.one_of(
    st.none(),
    st.none(),
    st.just(TrieConstraint(SETS, V)),
    st.builds(FailingConstraint, st.sampled_from(["mask", "accept"]), st.integers(0, 4)),
)
arrivals = st.builds(
    Arrival,
    st.one_of(prompts, prompts, prompts.map(lambda prompt: [*prompt[:-1], NAN_AFTER])),
    sampling_params(),
    constraints,
    st.integers(0, 2),
    st.sampled_from([0, 0, 4]),
    st.integers(0, 12),
    st.sampled_from([None, None, None, 0, 1, 3, 6]),
)


def after(history) -> np.ndarray:
    if history[-1] == NAN_AFTER:
        return np.full(V, np.nan, np.float32)
    return logits_after(history, V)


def run(engine: Engine, schedule: list[Arrival]) -> dict:
    """Return the events of a schedule, together, and check what is true between steps."""
    events, pending, ids = [], list(range(len(schedule))), {}
    for step in range(1000):
        for number in [number for number in pending if schedule[number].step <= step]:
            each = schedule[number]
            ids[
                engine.submit(
                    each.prompt,
                    each.params,
                    constraint=each.constraint,
                    priority=each.priority,
                    first_index=each.first_index,
                )
            ] = number
            pending.remove(number)
        for id_, number in ids.items():
            patience = schedule[number].patience
            if patience is not None and step == schedule[number].step + patience:
                engine.cancel(id_)
        if not engine.has_work and not pending:
            break
        engine._model.poison([row for rank in engine._scheduler._free for row in rank])
        events += engine.step()
    assert not engine.has_work
    assert (engine.stats.running, engine.stats.waiting) == (0, 0)
    return {(ids[id_], index): answer for (id_, index), answer in together(events).items()}


def check(answer_of: dict, schedule: list[Arrival]) -> None:
    """Assert that every answer is the one that it would be alone, or as far as it was let go."""
    keys = [
        (i, each.first_index + n) for i, each in enumerate(schedule) for n in range(each.params.n)
    ]
    assert sorted(answer_of) == sorted(keys)
    for (number, index), answer in answer_of.items():
        each = schedule[number]
        expected = answer_alone(
            after,
            each.prompt,
            each.params,
            index=index,
            eos=EOS,
            max_length=LENGTH,
            constraint=each.constraint,
        )
        count = len(answer.tokens)
        if answer.finish_reason == "cancelled":
            assert each.patience is not None
            logprobs = None if expected.logprobs is None else expected.logprobs[:count]
            expected = expected._replace(
                tokens=expected.tokens[:count],
                finish_reason="cancelled",
                logprobs=logprobs,
                error=None,
            )
        assert answer._replace(logprobs=None) == expected._replace(logprobs=None)
        assert (answer.logprobs or []) == (expected.logprobs or [])


sizes = st.fixed_dictionaries(
    {
        "max_sequences": st.integers(3, 6),
        "prefill_chunk": st.sampled_from([1, 2, 5, 8, 64]),
        "draft_tokens": st.integers(0, 3),
    }
)


@settings(max_examples=120)
@given(
    st.lists(arrivals, min_size=1, max_size=7), sizes, st.sampled_from([1, 4, 512]), st.booleans()
)
def test_each_request_is_answered_as_if_it_were_alone(schedule, options, max_step, pads_steps):
    model = HistoryModel(
        V, LENGTH, eos=EOS, nan_after=NAN_AFTER, max_step=max_step, pads_steps=pads_steps
    )
    engine = Engine(model, **options)
    check(run(engine, schedule), schedule)
    rows, chunk, width = (
        options["max_sequences"],
        options["prefill_chunk"],
        1 + options["draft_tokens"],
    )
    for _, position_BT in model.steps:
        count = int(np.sum(position_BT >= 0))
        assert count <= rows * width + min(chunk, max(1, max_step))
        if pads_steps and position_BT.shape[0] > 1:
            assert position_BT.shape[0] == rows
            assert position_BT.shape[1] <= width
    params = SamplingParams(n=rows, max_tokens=1, temperature=1.0)  # no row is lost
    id_ = engine.submit([1], params)
    assert len(engine.run()[id_].answers) == rows


@settings(max_examples=40)
@given(st.lists(arrivals, min_size=1, max_size=6), sizes)
def test_prompt_logprobs_are_those_of_the_prompt(schedule, options):
    engine = Engine(HistoryModel(V, LENGTH), **options)
    wanted = [each for each in schedule if each.params.prompt_logprobs is not None]
    ids = [engine.submit(each.prompt, each.params) for each in schedule]
    results = engine.run()
    for id_, each in zip(ids, schedule, strict=True):
        expected = None
        if each in wanted:
            expected = prompt_logprobs_alone(
                lambda tokens: logits_after(tokens, V), each.prompt, each.params.prompt_logprobs
            )
        assert results[id_].prompt_logprobs == expected
        assert results[id_].seed == each.params.seed
