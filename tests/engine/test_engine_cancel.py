"""engine: a cancelled request ends at once, and the others go on."""

import pytest

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.outputs import Event
from tests.support.engine_model import HistoryModel, logits_after
from tests.support.engine_oracle import answer_alone, step_until_idle, together

V, LENGTH = 23, 40
SHORT = SamplingParams(max_tokens=3)


def alone(prompt, params, **options):
    return answer_alone(
        lambda tokens: logits_after(tokens, V), prompt, params, max_length=LENGTH, **options
    )


def engine_of(rows: int = 4, model: HistoryModel | None = None, **options) -> Engine:
    return Engine(model or HistoryModel(V, LENGTH), rows, **options)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("rows", [1, 4])
def test_a_cancelled_request_ends_and_the_others_go_on(steps, rows):
    engine = engine_of(rows, prefill_chunk=3)
    params = SamplingParams(max_tokens=9)
    ids = [engine.submit([token] * 7, params) for token in range(3)]
    events = [event for _ in range(steps) for event in engine.step()]
    engine.cancel(ids[1])
    engine.cancel(ids[1])
    engine.cancel(99)
    first = engine.step()
    assert Event(ids[1], 0, (), None, "cancelled", None) in first
    answer_of = together(events + first + step_until_idle(engine))
    cancelled = answer_of.pop((ids[1], 0))
    expected = alone([1] * 7, params).tokens
    assert cancelled.finish_reason == "cancelled"
    assert cancelled.tokens == expected[: len(cancelled.tokens)]
    assert answer_of == {(id_, 0): alone([id_] * 7, params) for id_ in (ids[0], ids[2])}


def test_nothing_is_computed_for_a_cancelled_request():
    model = HistoryModel(V, LENGTH)
    engine = engine_of(1, model)
    engine.cancel(engine.submit([1], SHORT))
    engine.step()
    assert model.steps == []
    engine.submit([2], SHORT)
    engine.step()
    engine.cancel(1)
    last = engine.submit([3], SHORT)  # it gets the row at once
    assert [event.id for event in engine.step()] == [1, last]
    assert [tokens.tolist() for tokens, _ in model.steps] == [[[2]], [[3]]]


def test_a_request_that_has_ended_cannot_be_cancelled():
    engine = engine_of()
    id_ = engine.submit([1], SamplingParams(max_tokens=1))
    engine.submit([2], SHORT)
    engine.step()
    engine.cancel(id_)
    assert all(event.id != id_ for event in step_until_idle(engine))


def test_some_answers_end_and_the_rest_is_cancelled():
    params = SamplingParams(n=3, temperature=1.5, seed=11, stop_token_ids=list(range(0, V, 3)))
    lengths = [len(alone([2], params, index=index).tokens) for index in range(3)]
    assert len(set(lengths)) > 1
    engine = engine_of()
    id_ = engine.submit([2], params)
    events = [event for _ in range(min(lengths)) for event in engine.step()]
    engine.cancel(id_)
    answer_of = together(events + step_until_idle(engine))
    reasons = [answer_of[id_, index].finish_reason for index in range(3)]
    expected = ["stop" if n == min(lengths) else "cancelled" for n in lengths]
    assert reasons == expected
    assert engine.stats.finished == 3
