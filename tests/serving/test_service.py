"""The service: what is asked becomes an answer, and what fails becomes the right error."""

import asyncio
import json

import pytest

from mimo_v2_flash.engine import Engine
from mimo_v2_flash.serving.engine_thread import EngineThread
from mimo_v2_flash.serving.errors import APIError
from mimo_v2_flash.serving.protocol import CompletionFields
from mimo_v2_flash.serving.service import Service
from tests.support.engine_model import HistoryModel
from tests.support.served import NAME, served_tiny


@pytest.fixture
def service():
    model = HistoryModel(4096, 1000)
    with EngineThread(Engine(model, 2, max_waiting=2, prefix_cache=0)) as thread:
        yield Service(served_tiny(), thread)


def answer(service, **fields):
    body = {"model": NAME, "prompt": [5], **fields}
    return service.parse(CompletionFields, json.dumps(body).encode())


def test_a_whole_answer_is_measured_and_logged(service):
    async def ask():
        log = {}
        running = service.start(answer(service, max_tokens=4, n=2), log)
        result = await running.whole()
        running.close()
        running.close()  # once is enough
        return result, log

    result, log = asyncio.run(ask())
    assert result["usage"]["completion_tokens"] == 8
    assert log.pop("first_token_seconds") >= 0
    assert log == {
        "prompt_tokens": 1,
        "completion_tokens": 8,
        "finish_reasons": ["length", "length"],
    }
    assert not service.running
    metrics = service.metrics.render()
    assert b'vllm:request_success_total{finished_reason="length",model_name="tiny"} 2.0' in metrics
    for phase in (b"queue", b"prefill", b"decode", b"inference"):
        assert b'vllm:request_%b_time_seconds_count{model_name="tiny"} 2.0' % phase in metrics


def test_a_stream_ends_with_done(service):
    async def ask():
        running = service.start(answer(service, max_tokens=3, stream=True), {})
        return [event async for event in running.sent_events(15.0)]

    events = b"".join(asyncio.run(ask())).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_silent_stream_has_comments(service):
    async def ask():
        blockers = [service.start(answer(service, max_tokens=900), {}) for _ in range(2)]
        while service.thread.stats.running < 2:
            await asyncio.sleep(0.01)
        running = service.start(answer(service, max_tokens=1, stream=True), {})
        events = running.sent_events(0.001)
        seen = [await anext(events), await anext(events)]
        for blocker in blockers:
            blocker.close()
        return [*seen, *[event async for event in events]]

    assert b": keep-alive\n\n" in asyncio.run(ask())


def test_a_full_queue_says_when_to_come_back(service):
    async def ask():
        running = [service.start(answer(service, max_tokens=900), {}) for _ in range(2)]
        while service.thread.stats.running < 2:
            await asyncio.sleep(0.01)
        running += [service.start(answer(service, max_tokens=900), {}) for _ in range(2)]
        with pytest.raises(APIError) as caught:
            service.start(answer(service), {})
        for each in running:
            each.close()
        return caught.value

    error = asyncio.run(ask())
    assert (error.status, error.retry_after) == (429, 1)


def test_more_answers_than_rows_are_refused(service):
    async def ask():
        service.start(answer(service, n=3), {})

    with pytest.raises(APIError, match=r"n is 3, allowed is 1\.\.2") as caught:
        asyncio.run(ask())
    assert caught.value.status == 400


def test_an_aborted_stream_is_told_why(service):
    async def ask():
        running = service.start(answer(service, max_tokens=900, stream=True), {})
        events = running.sent_events(15.0)
        await anext(events)
        service.abort()
        return [event async for event in events]

    *_, error = asyncio.run(ask())
    assert b"shuts down" in error
    assert error.endswith(b"data: [DONE]\n\n")


def test_after_a_failure_and_while_it_drains_there_are_no_answers(service):
    service.is_draining = True
    with pytest.raises(APIError, match="shuts down") as caught:
        service.check_open()
    assert caught.value.status == 503
    service.is_draining = False
    service.thread.close()
    with pytest.raises(APIError, match="has failed"):
        service.start(answer(service), {})
