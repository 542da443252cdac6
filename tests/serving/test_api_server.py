"""The server: keys and hosts reach it, and it drains before it ends."""

import json
import socket
import sys
import threading
import time

import httpx
import pytest

from mimo_v2_flash.serving.api_server import APIServer
from tests.support.engine_model import HistoryModel
from tests.support.served import NAME, serving

BODY = {"model": NAME, "prompt": [5], "ignore_eos": True, "stream": True}


def test_a_key_and_a_host_are_needed_from_anyone():
    with serving(HistoryModel(4096, 256), api_keys=["right"]) as server:
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer right"}, 200),
            ({"authorization": "Bearer right", "host": "evil.example"}, 403),
        ):
            assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == status


def test_a_port_that_is_taken_is_an_error():
    with serving(HistoryModel(4096, 256)) as server, pytest.raises(OSError, match="in use"):
        APIServer(server.service, port=int(server.url.rsplit(":", 1)[1]))


def test_threads_take_turns_quickly_while_it_runs():
    before = sys.getswitchinterval()
    with serving(HistoryModel(4096, 256)) as server:
        httpx.get(f"{server.url}/health")
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before


def stream(url, tokens, seen):
    """Read a stream to its end."""
    with httpx.stream(
        "POST", f"{url}/v1/completions", json={**BODY, "max_tokens": tokens}
    ) as answer:
        for line in answer.iter_lines():
            seen.append(line)


def is_refused(url):
    """Return whether a new request is refused, or finds nobody any more."""
    try:
        return httpx.post(f"{url}/v1/completions", json=BODY).status_code == 503
    except httpx.TransportError:
        return True


@pytest.mark.parametrize(("drain_seconds", "is_whole"), [(30, True), (0, False)])
def test_running_answers_end_or_are_told(drain_seconds, is_whole):
    seen = []
    with serving(HistoryModel(4096, 256), drain_seconds=drain_seconds) as server:
        reader = threading.Thread(target=stream, args=(server.url, 200, seen))
        reader.start()
        while len(seen) < 3:
            time.sleep(0.001)
        server.server.shut_down()
        assert is_refused(server.url)
        reader.join(30)
        server.thread.join(30)
        assert not server.thread.is_alive()
    events = [json.loads(line[6:]) for line in seen if line.startswith("data: {")]
    assert seen[-2] == "data: [DONE]"
    reasons = [choice["finish_reason"] for event in events for choice in event.get("choices", ())]
    if is_whole:
        assert reasons[-1] == "length"
    elif reasons[-1] is None:  # it was too slow to end by itself
        assert "shuts down" in events[-1]["error"]["message"]


def test_it_listens_on_ipv6_too():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    with serving(HistoryModel(4096, 256)) as server:
        try:
            other = APIServer(server.service, host="::1", port=0)
        except OSError:
            pytest.skip("no IPv6 on this machine")
        assert other.url.startswith("http://[::1]:")
        other._socket.close()
