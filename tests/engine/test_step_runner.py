"""step_runner: one flat step, or a step of all rows and one for each chunk; what they give."""

import numpy as np
import pytest

from mimo_v2_flash.engine import step_runner
from mimo_v2_flash.engine.executor import Executor
from mimo_v2_flash.engine.request import Request, Sequence
from mimo_v2_flash.engine.sampling_params import SamplingParams
from mimo_v2_flash.engine.scheduler import ScheduledTokens
from mimo_v2_flash.engine.step_runner import StepRunner
from mimo_v2_flash.engine.worker import Worker
from mimo_v2_flash.layers.nonfinite import NonFiniteCause, NonFiniteError
from mimo_v2_flash.parallel import ALONE
from tests.support.engine_model import HistoryModel, logits_after

V = 23


def sequence_of(row: int, prompt, new=(), *, n: int = 1, **params) -> Sequence:
    request = Request(row, list(prompt), SamplingParams(**params), frozenset(), 9, 0)
    request.sequences = [Sequence(request, index, row=row + index) for index in range(n)]
    request.sequences[0].new_tokens += new
    return request.sequences[0]


class Run:
    """A runner on a model of hashes with a cache of four rows."""

    def __init__(self, suppressed: frozenset[int] = frozenset(), **options) -> None:
        self.model = HistoryModel(V, 40, **options)
        self.cache = self.model.new_cache(4)
        executor = Executor(ALONE, Worker(self.model, self.cache))
        self._runner = StepRunner(
            executor, 4, pads_steps=self.model.pads_steps, suppressed=suppressed
        )

    def __call__(self, *parts: tuple[Sequence, int]):
        """Return the results of a step of the next tokens of sequences, as many as are named."""
        return list(
            self._runner.run([ScheduledTokens(each, each.unseen(count)) for each, count in parts])
        )


def after(*tokens) -> np.ndarray:
    return logits_after(tokens, V)


def test_chunks_and_single_tokens_are_one_step():
    run, one, two, three = (
        Run(),
        sequence_of(0, [1, 2]),
        sequence_of(2, [3] * 5),
        sequence_of(3, [4]),
    )
    run((one, 2))
    one.new_tokens.append(9)
    (result,) = run((one, 1), (two, 3), (three, 1))
    assert result.sequences == [one, three]
    assert result.token_Rn[:, 0].tolist() == [np.argmax(after(1, 2, 9)), np.argmax(after(4))]
    assert [each.computed for each in (one, two, three)] == [3, 3, 1]
    tokens, positions = run.model.steps[1]
    assert positions.tolist() == [[2, -1, -1], [-1] * 3, [0, 1, 2], [0, -1, -1]]
    assert tokens[2].tolist() == [3] * 3


def test_one_sequence_that_needs_logits_gets_them_for_all():
    run, one, two = Run(), sequence_of(1, [1, 2]), sequence_of(2, [3], temperature=1.0)
    (result,) = run((one, 2), (two, 1))
    assert result.token_Rn is None
    np.testing.assert_array_equal(result.logits_RnV[:, 0], [after(1, 2), after(3)])


def test_padded_steps_are_of_all_rows_or_of_one():
    run, one, two, three = (
        Run(pads_steps=True),
        sequence_of(0, [1, 2]),
        sequence_of(2, [3] * 5),
        sequence_of(3, [4, 5]),
    )
    run((one, 2))
    one.new_tokens.append(9)
    results = run((one, 1), (two, 3), (three, 2))
    assert [result.sequences for result in results] == [[one], [], [three]]
    assert results[2].token_Rn[:, 0].tolist() == [np.argmax(after(4, 5))]
    shapes = [tokens.shape for tokens, _ in run.model.steps[1:]]
    assert shapes == [(4, 1), (1, 3), (1, 2)]


@pytest.mark.parametrize("chunks", [[4], [1, 3], [3, 1], [2, 1, 1]])
def test_a_prompt_whose_logits_are_wanted_is_a_step_of_its_row(chunks):
    run, wanting = Run(), sequence_of(1, [7, 8, 9, 7], prompt_logprobs=2)
    other = sequence_of(0, [1])
    results = [
        run((wanting, count), *([(other, 1)] if not i else [])) for i, count in enumerate(chunks)
    ]
    logprobs = wanting.request.prompt_logprobs
    assert [each.token for each in logprobs] == [8, 9, 7]
    assert [each.top[0][0] for each in logprobs] == [
        np.argmax(after(*[7, 8, 9][: length + 1])) for length in range(3)
    ]
    np.testing.assert_array_equal(results[-1][-1].logits_RnV[:, 0], [after(7, 8, 9, 7)])
    assert results[0][0].sequences == [other]


def scores(sequence: Sequence) -> list[int]:
    """Return the tokens of a prompt that were scored, each checked against the model's logits."""
    prompt = sequence.request.prompt_tokens
    for position, each in enumerate(sequence.request.prompt_logprobs, start=1):
        logits_V = after(*prompt[:position]).astype(np.float64)
        expected = logits_V[each.token] - np.log(np.sum(np.exp(logits_V)))
        assert each.logprob == pytest.approx(expected, abs=1e-9)
    return [each.token for each in sequence.request.prompt_logprobs]


@pytest.mark.parametrize(
    ("most", "shapes"),
    [(16, [(4, 4)]), (12, [(3, 4), (1, 2)]), (8, [(2, 4), (2, 3)]), (1, None)],
)
def test_prompts_whose_logits_are_wanted_are_rectangles_of_a_limited_size(
    monkeypatch, most, shapes
):
    monkeypatch.setattr(step_runner, "PROMPT_LOGITS", most)
    prompts = [7, 8, 9, 7], [1, 2], [5, 6, 7], [3, 4]
    run = Run()
    all_ = [sequence_of(row, prompt, prompt_logprobs=0) for row, prompt in enumerate(prompts)]
    results = run(*[(each, 4) for each in reversed(all_)])
    assert list(map(scores, all_)) == [prompt[1:] for prompt in prompts]
    assert [each for result in results for each in result.sequences] == all_
    for result in results:
        for sequence, logits_V in zip(result.sequences, result.logits_RnV[:, 0], strict=True):
            np.testing.assert_array_equal(logits_V, after(*sequence.request.prompt_tokens))
    actual = [tokens.shape for tokens, _ in run.model.steps]
    assert actual == (shapes or [(1, 4), (1, 2), (1, 3), (1, 2)])


def test_a_row_that_is_not_finite_leaves_the_scores_of_others():
    run = Run(nan_after=9)
    bad = sequence_of(0, [9, 1, 2], prompt_logprobs=0)
    good = sequence_of(1, [5, 6, 7], prompt_logprobs=0)
    (result,) = run((bad, 3), (good, 3))
    assert [sequence for sequence, _ in result.failed] == [bad]
    assert [sequence for sequence, _ in result.scored] == [good]
    assert scores(good) == [6, 7]


def test_answers_begin_where_the_prompt_ends():
    run, first = Run(), sequence_of(1, [5, 6, 7], n=3)
    three = first.request.sequences
    three[1].row = None  # it has been cancelled
    (result,) = run((first, 2))
    assert result.sequences == []
    (result,) = run((first, 3))
    assert result.sequences == [three[0], three[2]]
    assert result.token_Rn[:, 0].tolist() == [np.argmax(after(5, 6, 7))] * 2
    assert [each.computed for each in three] == [3, 0, 3]
    assert run.cache.length_B.tolist() == [0, 3, 0, 3]
    first.new_tokens.append(1)
    three[2].new_tokens.append(2)
    (result,) = run((three[0], 1), (three[2], 1))
    assert result.token_Rn[:, 0].tolist() == [np.argmax(after(5, 6, 7, token)) for token in (1, 2)]


def test_a_bad_row_keeps_its_error_where_a_suppressed_token_is_the_best_of_another():
    """The step runs again for the logits of the others, in which nothing is bad, or another row."""
    best = int(np.argmax(after(4)))
    for worse in ((), (2,)):
        run = Run(nan_after=9, suppressed=frozenset({best}))
        model = run.model
        bad, good, later = sequence_of(0, [9]), sequence_of(1, [4]), sequence_of(2, [6])
        forward = model.forward

        def forward_again(*args, forward=forward, model=model, worse=worse, **kwargs):
            outputs = forward(*args, **kwargs)
            if len(model.steps) == 2 and worse:
                outputs[-1][list(worse)] = np.nan
                model._error = NonFiniteError(worse, {2: NonFiniteCause(0, 1, "router")}, outputs)
            return outputs

        model.forward = forward_again
        (result,) = run((bad, 1), (good, 1), (later, 1))
        assert len(model.steps) == 2
        assert result.token_Rn is None
        errors = {sequence: str(error) for sequence, error in result.failed}
        assert errors.pop(bad) == "NaN or infinity in row 0: embedding"
        assert list(errors) == ([later] if worse else [])
        assert all("router, layer 1" in text for text in errors.values())
        assert result.sequences == ([good] if worse else [good, later])
        np.testing.assert_array_equal(result.logits_RnV[0, 0], after(4))


def test_a_sequence_that_does_not_run_has_no_row():
    sequence = sequence_of(0, [1])
    sequence.row = None
    with pytest.raises(RuntimeError, match="answer 0 of request 0 has no row"):
        Run()((sequence, 1))


def test_nothing_scheduled_is_no_step():
    run = Run()
    assert run() == []
    assert run.model.steps == []
