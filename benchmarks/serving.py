"""Benchmark the server: what it adds to the engine's own time, and to its throughput.

Both sides are measured in turn, on the shipped model: 32 streams over HTTP from a client of its own
process, and the same requests on the engine alone. The grammar's share is that of a wide model.

    python -m benchmarks.serving      # about 6 minutes; 2 GB of disk, 8 GB of memory
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import numpy as np

from mimo_v2_flash import load_model
from mimo_v2_flash.cli.console import console, table
from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.serving.api_server import APIServer
from mimo_v2_flash.serving.engine_thread import EngineThread
from mimo_v2_flash.serving.served_model import ServedModel
from mimo_v2_flash.serving.service import Service
from mimo_v2_flash.text.tokenizer import load_tokenizer

from .grammar import GrammarCase
from .machine import describe_machine
from .steps import ROOT

RESULTS = Path(__file__).parent / "results" / "serving.json"
TINY = ROOT / "examples" / "mimo-tiny"
STREAMS, PROMPT, NEW = 32, 32, 64
ASKED = 8  # prompts of a client, one after the other
BARS = {
    "throughput of 32 streams over the engine's alone": 0.9,
    "request to first byte beyond the engine's, p50, ms": 5,
    "request to first byte beyond the engine's, p99, ms": 30,
    "grammar's share of a step, 8 rows, MiMo's vocabulary, 3 layers": 0.05,
    "grammar's time in that step, ms": None,
}
CLIENT = """
import json, selectors, socket, sys, time

class Client:
    def __init__(self, address, bodies):
        self.address, self.bodies, self.firsts = address, bodies[::-1], []
        self.ask()

    def ask(self):
        content = json.dumps(self.bodies.pop()).encode()
        head = f"POST /v1/completions HTTP/1.1\\r\\nhost: {self.address[0]}\\r\\n"
        self.start, self.is_silent = time.perf_counter(), True
        self.socket = socket.create_connection(self.address)
        head += f"connection: close\\r\\ncontent-length: {len(content)}\\r\\n\\r\\n"
        self.socket.sendall(head.encode() + content)
        waiting.register(self.socket, selectors.EVENT_READ, self)

    def read(self):
        piece = self.socket.recv(1 << 16)
        if self.is_silent and b"data: {" in piece:
            self.firsts.append(time.perf_counter() - self.start)
            self.is_silent = False
        if not piece:
            waiting.unregister(self.socket)
            self.socket.close()
            if self.bodies:
                self.ask()

waiting = selectors.DefaultSelector()
host, port = sys.argv[1].removeprefix("http://").split(":")
everyone = json.load(sys.stdin)
start = time.perf_counter()
clients = [Client((host, int(port)), bodies) for bodies in everyone]
while waiting.get_map():
    for key, _ in waiting.select():
        key.data.read()
seconds = time.perf_counter() - start
print(json.dumps({"firsts": [client.firsts for client in clients], "seconds": seconds}))
"""  # no HTTP library, no asyncio: their time is not the server's


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="Number of rounds (default: 5).")
    options = parser.parse_args()
    model, tokenizer, grammar = load_model(TINY), load_tokenizer(TINY), GrammarCase()
    figures: dict[str, list[float]] = {name: [] for name in BARS}
    for round_ in range(options.rounds + 1):
        random = np.random.default_rng(round_)
        prompts = random.integers(9, 4000, (STREAMS, PROMPT)).tolist()
        alone = engine_alone(model, prompts)
        seconds, _ = over_http(model, tokenizer, [[(prompt, NEW)] for prompt in prompts])
        _, beyond = over_http(model, tokenizer, in_turn(random))
        grammar_seconds, step_seconds = grammar.measure()
        values = (
            alone / seconds,
            float(np.percentile(beyond, 50)) * 1e3,
            float(np.percentile(beyond, 99)) * 1e3,
            grammar_seconds / step_seconds,
            grammar_seconds * 1e3,
        )
        for name, value in zip(BARS, values, strict=True):
            if round_:  # the first warms up
                figures[name].append(value)
    report = table("The server", ("figure",), ("median", "least", "greatest", "bar"))
    for name, values_of_rounds in figures.items():
        numbers = median(values_of_rounds), min(values_of_rounds), max(values_of_rounds)
        bar = "" if BARS[name] is None else f"{BARS[name]:.3g}"
        report.add_row(name, *(f"{number:.3g}" for number in numbers), bar)
    console().print(report)
    results = {"machine": describe_machine(), "rounds": options.rounds, "figures": figures}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def engine_alone(model: Any, prompts: list[list[int]]) -> float:
    """Return the seconds in which the engine answers prompts."""
    params = SamplingParams(max_tokens=NEW, ignore_eos=True)
    with Engine(model, STREAMS, PROMPT + NEW, prefix_cache=0) as engine:
        start = time.perf_counter()
        for prompt in prompts:
            engine.submit(prompt, params)
        engine.run()
        return time.perf_counter() - start


class TimedThread(EngineThread):
    """An engine's thread that notes when each prompt's first token comes, from its submission."""

    def __init__(self, engine: Engine) -> None:
        self.firsts: dict[tuple[int, ...], float] = {}
        super().__init__(engine)

    def submit(self, prompt_tokens: Any, params: Any, listener: Any, **options: Any) -> int:
        """Submit a prompt."""
        start, key = time.perf_counter(), tuple(prompt_tokens)

        def timed(events: Any) -> None:
            self.firsts.setdefault(key, time.perf_counter() - start)
            listener(events)

        return super().submit(prompt_tokens, params, timed, **options)


def in_turn(random: np.random.Generator) -> list[list[tuple[list[int], int]]]:
    """Return the prompts and lengths of clients that each ask again when they have an answer."""
    prompts = random.integers(9, 4000, (STREAMS, ASKED, PROMPT)).tolist()
    lengths = random.integers(1, NEW, (STREAMS, ASKED)).tolist()
    return [list(zip(*client, strict=True)) for client in zip(prompts, lengths, strict=True)]


def over_http(
    model: Any, tokenizer: Any, clients: list[list[tuple[list[int], int]]]
) -> tuple[float, np.ndarray]:
    """Return the seconds of all streams of clients over HTTP, and those before the first bytes.

    The latter are those of the last half of each client's streams, beyond the engine's.
    """
    body = {"model": "tiny", "temperature": 0, "ignore_eos": True, "stream": True}
    bodies = [
        [{**body, "prompt": prompt, "max_tokens": length} for prompt, length in client]
        for client in clients
    ]
    with serving(model, tokenizer) as (url, thread):
        command = [sys.executable, "-c", CLIENT, url]
        run = subprocess.run(
            command, input=json.dumps(bodies), capture_output=True, text=True, check=True
        )
    result = json.loads(run.stdout)
    beyond = [
        first - thread.firsts[tuple(prompt)]
        for client, firsts in zip(clients, result["firsts"], strict=True)
        for (prompt, _), first in list(zip(client, firsts, strict=True))[len(client) // 2 :]
    ]
    return result["seconds"], np.array(beyond)


@contextmanager
def serving(model: Any, tokenizer: Any) -> Iterator[tuple[str, TimedThread]]:
    """Serve the model while the block runs."""
    engine = Engine(model, STREAMS, PROMPT + NEW, prefix_cache=0)
    with TimedThread(engine) as thread:
        service = Service(ServedModel("tiny", model, tokenizer), thread)
        server = APIServer(service, port=0, log=None)
        runner = Thread(target=server.run)
        runner.start()
        yield server.url, thread
        server.shut_down()
        runner.join()


if __name__ == "__main__":
    sys.exit(main())
