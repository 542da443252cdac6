"""Clients of all kinds at once: those that stream, wait, leave early, and send garbage."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

__all__ = ["Load", "run_clients"]

KINDS = {"stream": 0.4, "whole": 0.3, "leaves": 0.25, "garbage": 0.05}


@dataclass
class Load:
    """What many clients got.

    Attributes
    ----------
    answers
        Prompt, number of tokens and text of each whole answer.
    firsts, seconds
        Seconds to the first chunk of each stream, and to the end of each answer.
    ends
        How each request ended: "done", "left", "told: ...", "cut", "refused", or "closed" where the
        connection ended before an answer.
    """

    answers: list[tuple[list[int], int, str]] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def report(self) -> str:
        """Return how requests ended, and how long they took."""
        lines = [str(dict(Counter(self.ends)))]
        for name, values in (("first byte", self.firsts), ("answer", self.seconds)):
            p50, p99 = np.percentile(values, [50, 99]) * 1e3
            lines.append(f"{name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
        return "\n".join(lines)


async def run_clients(
    url: str, model: str, requests: int, clients: int = 64, load: Load | None = None
) -> Load:
    """Send requests of heavy-tailed lengths from so many clients at a time, and return `load`."""
    random, load = np.random.default_rng(0), Load() if load is None else load
    pending = iter(random.choice([*KINDS], requests, p=[*KINDS.values()]).tolist())
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=600) as http:
        seeds = iter(random.integers(0, 2**31, requests).tolist())

        async def client() -> None:
            for kind in pending:
                await _request(http, model, kind, np.random.default_rng(next(seeds)), load)

        await asyncio.gather(*(client() for _ in range(clients)))
    return load


async def _request(
    http: httpx.AsyncClient, model: str, kind: str, random: np.random.Generator, load: Load
) -> None:
    prompt = random.integers(9, 4000, int(random.integers(1, 40))).tolist()
    tokens = int(min(random.pareto(1.2) * 8 + 1, 60))
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    body |= {"ignore_eos": True, "stream": kind in {"stream", "leaves"}}
    if kind == "garbage":
        body["prompt"] = {"a": 1}
    start = time.perf_counter()
    try:
        leaving = 0.3 * (kind == "leaves")
        text = await (_stream if body["stream"] else _whole)(http, body, leaving, random, load)
    except httpx.TransportError as error:
        load.ends.append("refused" if isinstance(error, httpx.ConnectError) else "closed")
        return
    if text is not None:
        load.answers.append((prompt, tokens, text))
        load.seconds.append(time.perf_counter() - start)


async def _whole(
    http: httpx.AsyncClient, body: Any, leaving: float, random: Any, load: Load
) -> str | None:
    """Return the text of an answer; None if it was refused."""
    answer = await http.post("/v1/completions", json=body)
    load.ends.append(_end_of(answer.status_code, body))
    return str(answer.json()["choices"][0]["text"]) if answer.status_code == 200 else None


def _end_of(status: int, body: Any) -> str:
    expected = 400 if isinstance(body["prompt"], dict) else 200
    return "done" if status == expected else f"refused: {status}"


async def _stream(
    http: httpx.AsyncClient, body: Any, leaving: float, random: Any, load: Load
) -> str | None:
    """Return the text of a stream; None if the client left, at each line with a probability."""
    chunks, start = list[Any](), time.perf_counter()
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            load.ends.append(_end_of(answer.status_code, body))
            return None
        async for line in answer.aiter_lines():
            if random.random() < leaving:
                load.ends.append("left")
                return None
            if line.startswith("data: {"):
                chunks.append(json.loads(line[6:]))
                load.firsts += [time.perf_counter() - start] * (len(chunks) == 1)
    return _text(chunks, load)


def _text(chunks: list[Any], load: Load) -> str | None:
    """Return the text of a stream that has ended; None if its client was told of an error."""
    if chunks and "error" in chunks[-1]:
        load.ends.append(f"told: {chunks[-1]['error']['message']}")
        return None
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    load.ends.append("done" if choices and choices[-1]["finish_reason"] else "cut")
    return "".join(choice["text"] for choice in choices)
