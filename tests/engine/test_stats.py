"""stats: counts, rates and percentiles of what an engine has done."""

import math

import numpy as np

from mimo_v2_flash.engine.memory_budget import MemoryUsage
from mimo_v2_flash.engine.outputs import Event
from mimo_v2_flash.engine.request import Request, Sequence
from mimo_v2_flash.engine.sampling_params import SamplingParams
from mimo_v2_flash.engine.scheduler import ScheduledTokens
from mimo_v2_flash.engine.stats import KEPT, StatsRecorder

USAGE = MemoryUsage(4, 5, 10, 11, None)


def request_of(id_: int, arrival: float, n: int = 1, first: int = 0) -> Request:
    request = Request(id_, [1, 2, 3], SamplingParams(), frozenset(), 9, 0, arrival=arrival)
    request.sequences = [Sequence(request, first + index) for index in range(n)]
    return request


def test_before_the_first_step_there_are_no_numbers():
    stats = StatsRecorder().snapshot(1, 2, 3, USAGE)
    assert (stats.running, stats.waiting, stats.cache_bytes) == (1, 2, 3)
    assert stats[-6:] == (*USAGE, None)
    assert (stats.finished, stats.prefill_tokens, stats.decode_tokens) == (0, 0, 0)
    rest = [stats.tokens_per_step, stats.batch_size, stats.decode_tokens_per_second]
    assert all(map(math.isnan, [*rest, *stats.first_token_seconds, *stats.token_seconds]))


def test_tokens_and_seconds_are_of_prompts_and_of_answers():
    recorder, one, two = StatsRecorder(), request_of(0, 1.0), request_of(1, 2.0, n=2, first=4)
    requests = {0: one, 1: two}
    recorder.begin([ScheduledTokens(one.sequences[0], [1, 2, 3])], 10.0)
    recorder.finish([Event(0, 0, (7,))], requests, 12.0)
    one.sequences[0].computed = 3
    step = [ScheduledTokens(one.sequences[0], [7]), ScheduledTokens(two.sequences[0], [1, 2])]
    recorder.begin(step, 12.0)
    recorder.finish([Event(0, 0, (8,), None, "stop")], requests, 15.0)
    recorder.begin([ScheduledTokens(two.sequences[0], [3])], 15.0)
    recorder.finish([Event(1, 4, (5,)), Event(1, 5, (6,), None, "length")], requests, 16.0)
    stats = recorder.snapshot(0, 0, 0, USAGE)
    assert (stats.finished, stats.prefill_tokens, stats.decode_tokens) == (2, 6, 1)
    assert stats.prefill_tokens_per_second == 6 / (2 + 3 + 1)
    assert stats.decode_tokens_per_second == 1 / 3
    assert stats.tokens_per_step == 1.0
    assert stats.batch_size == 4 / 3
    assert stats.first_token_seconds.p50 == np.median([11, 14, 14])
    assert stats.token_seconds == (3.0, 3.0, 3.0)


def test_a_request_waits_until_its_first_step():
    recorder, request = StatsRecorder(), request_of(0, 1.5)
    sequence = request.sequences[0]
    recorder.begin([ScheduledTokens(sequence, [1, 2])], 10.0)
    sequence.computed = 2
    recorder.finish([], {0: request}, 11.0)
    recorder.begin([ScheduledTokens(sequence, [3])], 12.0)
    assert sequence.queue_seconds == 8.5
    assert sequence.end(None, tokens=(7,)).queue_seconds == 8.5


def test_reused_tokens_are_counted_once():
    recorder, request = StatsRecorder(), request_of(0, 0.0, n=2)
    first, second = request.sequences
    first.computed = first.reused = 2
    for tokens in ([3], [7]):
        recorder.begin([ScheduledTokens(first, tokens)], 0.0)
        first.computed += 1
        second.computed = 3
        recorder.finish([], {}, 1.0)
    recorder.begin([ScheduledTokens(second, [8])], 0.0)
    recorder.finish([], {}, 1.0)
    stats = recorder.snapshot(0, 0, 0, USAGE)
    assert (stats.reused_tokens, stats.prefill_tokens, stats.decode_tokens) == (2, 1, 2)


def test_idle_steps_and_forgotten_requests_count_nothing():
    recorder = StatsRecorder()
    recorder.begin([], 0.0)
    recorder.finish([Event(5, 0, (1,)), Event(5, 0, (), None, "cancelled")], {}, 1.0)
    stats = recorder.snapshot(0, 0, 0, USAGE)
    assert (stats.finished, stats.decode_tokens) == (1, 0)
    assert math.isnan(stats.batch_size)


def test_percentiles_are_of_the_latest():
    recorder = StatsRecorder()
    for index in range(KEPT + 100):
        request = request_of(index, 0.0)
        recorder.begin([ScheduledTokens(request.sequences[0], [1])], 0.0)
        recorder.finish([Event(index, 0, (1,))], {index: request}, float(index))
    latest = np.arange(100, KEPT + 100)
    expected = np.percentile(latest, [50, 90, 99])
    np.testing.assert_allclose(recorder.snapshot(0, 0, 0, USAGE).first_token_seconds, expected)
