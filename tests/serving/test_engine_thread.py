"""The engine's thread: every event reaches its listener, from any thread, until the end."""

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.serving.engine_thread import EngineThread
from tests.support.engine_model import HistoryModel, logits_after

PARAMS = SamplingParams(max_tokens=5)


def greedy(prompt, count):
    """Return the tokens that the model chooses after a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits_after(tokens, 23).argmax()))
    return tokens[len(prompt) :]


def submit(thread, prompt, params=PARAMS):
    """Return the id of a request, and the queue of its events."""
    queue = SimpleQueue()
    return thread.submit(prompt, params, lambda events: [queue.put(each) for each in events]), queue


def drain(queue):
    """Return the tokens and the reason of one answer."""
    tokens = []
    while True:
        event = queue.get(timeout=30)
        tokens += event.tokens
        if event.finish_reason:
            return tokens, event.finish_reason


def test_requests_of_many_threads_get_their_events():
    with EngineThread(Engine(HistoryModel(), 3)) as thread, ThreadPoolExecutor(8) as pool:
        prompts = [[index % 23, index // 23] for index in range(40)]
        results = list(pool.map(lambda prompt: drain(submit(thread, prompt)[1]), prompts))
    assert results == [(greedy(prompt, 5), "length") for prompt in prompts]


def test_of_a_step_the_last_submitted_comes_first():
    steps = SimpleQueue()
    with EngineThread(Engine(HistoryModel(), 3)) as thread:
        with thread._changed:  # so that one step has them all
            for prompt in ([1], [2], [3]):
                thread.submit(prompt, SamplingParams(max_tokens=1), steps.put)
        ids = [steps.get(timeout=30)[0].id for _ in range(3)]
    assert ids == sorted(ids, reverse=True)


def test_a_request_that_is_cancelled_is_told_so():
    with EngineThread(Engine(HistoryModel(max_length=1000), 1)) as thread:
        id_, queue = submit(thread, [1], SamplingParams(max_tokens=900))
        queue.get(timeout=30)
        thread.cancel(id_)
        tokens, reason = drain(queue)
        assert reason == "cancelled"
        assert len(tokens) < 899
        thread.cancel(id_)  # it has ended already
        assert drain(submit(thread, [2])[1]) == (greedy([2], 5), "length")


def test_closing_ends_all_requests():
    thread = EngineThread(Engine(HistoryModel(max_length=1000), 1))
    queues = [submit(thread, [1], SamplingParams(max_tokens=900))[1] for _ in range(3)]
    assert thread.is_alive
    thread.close()
    assert [drain(queue)[1] for queue in queues] == ["cancelled"] * 3
    assert not thread.is_alive
    with pytest.raises(RuntimeError, match="closed"):
        submit(thread, [1])


def test_a_model_that_fails_ends_all_requests_and_the_thread():
    with EngineThread(Engine(HistoryModel(fails_at=2), 2)) as thread:
        queues = [submit(thread, [token], SamplingParams(max_tokens=30))[1] for token in (1, 2)]
        assert [drain(queue)[1] for queue in queues] == ["error", "error"]
        thread._thread.join(30)
        assert not thread.is_alive
        with pytest.raises(RuntimeError, match="closed"):
            submit(thread, [1])


def test_a_request_that_is_refused_leaves_nothing():
    with EngineThread(Engine(HistoryModel(), 1)) as thread:
        with pytest.raises(ValueError, match="vocabulary"):
            submit(thread, [99])
        assert thread.stats.waiting == thread.stats.running == 0
