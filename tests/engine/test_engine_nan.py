"""engine: NaN of one request on a real model: it ends that request, and stays in its row."""

import numpy as np
import pytest

from mimo_v2_flash.engine import Engine, SamplingParams
from tests.support.engine_tiny import run_alone
from tests.support.tiny import FULL, SLIDING, Recipe, running, tiny

DENSE = Recipe(layers=((FULL, "dense"), (SLIDING, "dense"), (FULL, "dense")), seed=3)
SPARSE = Recipe(layers=((FULL, "dense"), (SLIDING, "sparse"), (FULL, "sparse")), seed=3)
BROKEN, GOOD = 60, list(range(1, 10))
PARAMS = SamplingParams(max_tokens=8, logit_bias={BROKEN: -100.0})


def model_of(recipe: Recipe):
    """Return a model in which the embedding of the token `BROKEN` is NaN."""
    model = tiny(recipe)
    embedding_VD = np.array(model.weights.embedding_VD)
    embedding_VD[BROKEN] = np.nan
    return running(
        model._replace(weights=model.weights._replace(embedding_VD=embedding_VD)), max_length=64
    )


@pytest.mark.parametrize("recipe", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_nan_ends_its_request_alone(recipe):
    model = model_of(recipe)
    with Engine(model, 3) as engine:
        good = [engine.submit(GOOD, PARAMS), engine.submit(GOOD[:3], PARAMS)]
        broken = engine.submit([1, BROKEN, 2], PARAMS)
        results = engine.run()
    assert results[broken].finish_reason == "error"
    assert results[broken].tokens == []
    assert "NaN or infinity in row 0: embedding, position 1" in str(
        results[broken].answers[0].error
    )
    for id_, prompt in zip(good, (GOOD, GOOD[:3]), strict=True):
        assert results[id_].tokens == run_alone(model, prompt, PARAMS)[0].tokens


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_row_that_held_nan_is_like_any_other(cancelled):
    """A longer neighbour makes attention span all of the row's slots, also those of its past."""
    model = model_of(DENSE)
    with Engine(model, 2, prefill_chunk=16) as engine:
        engine.submit([1] * 30, SamplingParams(max_tokens=34))
        for _ in range(3):
            engine.step()
        broken = engine.submit([BROKEN] * 40, PARAMS)
        for _ in range(2):
            engine.step()
        if cancelled:
            engine.cancel(broken)
        while broken in engine._scheduler.requests:
            engine.step()
        id_ = engine.submit(GOOD, PARAMS)
        results = engine.run()
    assert results[id_].tokens == run_alone(model, GOOD, PARAMS)[0].tokens
