"""Many clients of all kinds at once: nobody gets another's text, nothing is left, all are told.

`make test-load` runs the large form: 2,000 requests to `mimo serve` with the shipped model.
"""

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager

import httpx
import psutil
import pytest

from mimo_v2_flash.engine import Engine, SamplingParams
from tests.serving.test_app import wait_until_idle
from tests.support.engine_model import HistoryModel
from tests.support.load import Load, run_clients
from tests.support.served import NAME, served_tiny, serving

REQUESTS = 2000
COMMAND = [
    *(sys.executable, "-m", "mimo_v2_flash", "serve", "--port", "0", "--max-length", "256"),
    *("--served-model-name", NAME, "--drain-seconds", "2", "--prefix-cache", "0"),
]


def different(answers, model, tokenizer):
    """Return the answers that are not what an engine that runs one request at a time gives."""
    with Engine(model, 1, 256, prefix_cache=0) as engine:
        ids = [
            engine.submit(prompt, SamplingParams(max_tokens=tokens, ignore_eos=True))
            for prompt, tokens, _ in answers
        ]
        alone = engine.run()
    texts = [tokenizer.decode(alone[id_].tokens, skip_special_tokens=True) for id_ in ids]
    pairs = zip(answers, texts, strict=True)
    return [(*answer, text) for answer, text in pairs if answer[-1] != text]


def test_many_clients_get_what_each_would_get_alone():
    with serving(HistoryModel(4096, 256), max_sequences=32) as server:
        load = asyncio.run(run_clients(server.url, NAME, 160))
        wait_until_idle(server)
        lines, tokenizer = server.lines(), server.service.served.tokenizer
    assert len(lines) == len(load.ends) == 160
    assert set(load.ends) == {"done", "left"}
    assert len(load.answers) > 80
    assert different(load.answers, HistoryModel(4096, 256), tokenizer) == []


@contextmanager
def process():
    """Run `mimo serve`; yield it, its URL, and the lines that it logs."""
    with subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True) as server:
        match, lines = None, []
        while match is None:
            match = re.search(r"is served at (http://\S+)/v1", server.stderr.readline())
        reader = threading.Thread(target=lambda: lines.extend(server.stderr))
        reader.start()
        yield server, match[1], lines
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        reader.join()


def gauges(url):
    """Return the server's metrics of running and waiting requests."""
    text = httpx.get(f"{url}/metrics").text
    return re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.M)


def held(server):
    """Return how many files, threads and bytes a process has."""
    one = psutil.Process(server.pid)
    return one.num_fds(), one.num_threads(), one.memory_info().rss


@pytest.mark.load
def test_two_thousand_requests_leave_nothing():
    with process() as (server, url, lines):
        asyncio.run(run_clients(url, NAME, 128))  # threads and memory that stay
        time.sleep(1)
        before = held(server)
        start = time.perf_counter()
        load = asyncio.run(run_clients(url, NAME, REQUESTS))
        seconds = time.perf_counter() - start
        time.sleep(1)
        after = held(server)
        assert gauges(url) == ["0.0", "0.0"]
    assert Counter(load.ends).keys() == {"done", "left"}
    assert len(load.ends) == REQUESTS
    assert sum("/v1/completions" in line for line in lines) == REQUESTS + 128
    assert after[:2] <= (before[0] + 2, before[1] + 2)
    assert after[2] < before[2] + (64 << 20)
    tokens = sum(tokens for _, tokens, _ in load.answers)
    resources = f"files, threads, bytes: {before} before, {after} after"
    sys.stdout.write(f"\n{load.report()}\n{seconds:.1f} s, {tokens} tokens\n{resources}\n")
    served = served_tiny()
    assert different(load.answers[::4], served.model, served.tokenizer) == []


def end_after(server, load, count):
    """Send SIGTERM to a server when so many requests have ended."""
    while len(load.ends) < count and server.poll() is None:
        time.sleep(0.01)
    server.send_signal(signal.SIGTERM)


@pytest.mark.load
def test_a_signal_in_the_middle_ends_all_and_tells_them():
    with process() as (server, url, lines):
        load = Load()
        killer = threading.Thread(target=end_after, args=(server, load, 200))
        killer.start()
        asyncio.run(run_clients(url, NAME, REQUESTS, load=load))
        server.wait(60)
        killer.join()
    ends = Counter(load.ends)
    sys.stdout.write(f"\n{load.report()}\n")
    assert len(load.ends) == REQUESTS
    assert ends["done"] + ends["left"] >= 200
    assert ends["refused"] > 0
    cancelled = "told: the request was cancelled: the server shuts down"
    assert set(ends) <= {"done", "left", cancelled, "refused: 503", "refused", "closed"}
    # A connection may be closed as a request is on its way; the server has seen none of these.
    answered = sum("/v1/completions" in line for line in lines)
    assert answered == REQUESTS - ends["refused"] - ends["closed"]
