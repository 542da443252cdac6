"""step_outputs: the wanted tokens of every row, whatever pass they are in; bad rows are NaN."""

import numpy as np
import pytest

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.layers.head import GreedyTokens, Logits
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.layers.step_outputs import StepOutputs
from mimo_v2_flash.parallel import SoloGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.tiny import running, tiny

MODEL = tiny()
CONTEXT = ParallelContext(ParallelConfig(), SoloGroup())
INDEX = np.array([[4, 0], [-1, 1], [-1, -1]])
STEP = Step(np.zeros((3, 5), np.int32), np.zeros(3, int), np.array([5, 2, 3]), INDEX)


def hidden_of(batch) -> np.ndarray:
    """Return hidden states that say which token they are of."""
    D = MODEL.config.hidden_size
    rows, position_N = batch.row_N[:, None], batch.position_N[:, None]
    return np.sin(1 + np.arange(D) * (7 * rows + position_N + 1)).astype(np.float32)


def filled(output, max_step: int, bad: tuple[int, ...] = ()):
    cache = running(MODEL).new_cache(3, 9)
    outputs = StepOutputs(output, MODEL.weights, STEP, cache, CONTEXT)
    for batch in CONTEXT.mode.batches(STEP, cache, max_step):
        outputs.fill(batch, hidden_of(batch))
    outputs.is_bad_B[list(bad)] = True
    return outputs.on_all_ranks()


@pytest.mark.parametrize("max_step", [1, 3, 512])
def test_outputs_do_not_depend_on_the_passes(max_step):
    logits, greedy = Logits(MODEL.config, NumpyBackend(), CONTEXT), None
    (whole_BnV,), (cut_BnV,) = filled(logits, 512), filled(logits, max_step)
    np.testing.assert_allclose(cut_BnV, whole_BnV, atol=1e-5)
    assert whole_BnV[INDEX >= 0].any(axis=1).all()
    assert not whole_BnV[INDEX < 0].any()
    greedy = GreedyTokens(MODEL.config, NumpyBackend(), CONTEXT)
    token_Bn, logit_Bn = filled(greedy, max_step)
    is_wanted_Bn = INDEX >= 0
    best = np.argmax(whole_BnV, axis=2)[is_wanted_Bn], np.max(whole_BnV, axis=2)[is_wanted_Bn]
    assert token_Bn[is_wanted_Bn].tolist() == best[0].tolist()
    np.testing.assert_allclose(logit_Bn[is_wanted_Bn], best[1], atol=1e-5)


def test_bad_rows_are_nan_in_the_last_output():
    logits = Logits(MODEL.config, NumpyBackend(), CONTEXT)
    (logits_BnV,) = filled(logits, 512, bad=(1,))
    assert np.isnan(logits_BnV[1]).all()
    assert np.isfinite(logits_BnV[[0, 2]]).all()
