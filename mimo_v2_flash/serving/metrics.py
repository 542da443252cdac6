"""Metrics of a server for Prometheus, by the names that vLLM's dashboards read."""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mimo_v2_flash.engine.stats import EngineStats
from mimo_v2_flash.expert_store import StoreStats

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PHASES = {
    "queue_time": "From the request to its first step.",
    "prefill_time": "From its first step to its first token.",
    "decode_time": "From its first token to the answer's end.",
    "inference_time": "From its first step to the answer's end.",
    "time_per_output_token": "Between the tokens of an answer, on average.",
}
DRAFTS = "vllm:spec_decode_num_"
SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class Metrics:
    """Counters and histograms of a server's requests, and gauges of its engine.

    Parameters
    ----------
    model_name
        The label `model_name` of all metrics.
    stats
        Returns the engine's statistics when they are read.
    """

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        self._registry, self._model_name = CollectorRegistry(), model_name
        self._registry.register(_EngineCollector(model_name, stats))
        self._finished = Counter(
            "vllm:request_success",
            "Answers that ended, by reason.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "From the request to its first token.", SECONDS
        )
        self._token = self._histogram(
            "vllm:inter_token_latency_seconds", "Between the tokens of an answer.", SECONDS
        )
        self._latency = self._histogram(
            "vllm:e2e_request_latency_seconds", "From the request to the answer's end.", SECONDS
        )
        self._phases = {
            name: self._histogram(f"vllm:request_{name}_seconds", meaning, SECONDS)
            for name, meaning in PHASES.items()
        }
        self._prompt = self._histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self._generation = self._histogram(
            "vllm:request_generation_tokens", "Tokens of an answer.", TOKENS
        )

    def first_token(self, seconds: float) -> None:
        """Count the time to an answer's first token."""
        self._first_token.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """Count the time between tokens of an answer."""
        self._token.observe(seconds)

    def finished(
        self, reason: str, prompt_tokens: int, completion_tokens: int, seconds: float
    ) -> None:
        """Count an answer that ended.

        Parameters
        ----------
        reason : str
            Why the answer ended.
        prompt_tokens, completion_tokens : int
            Tokens of the prompt and of the answer.
        seconds : float
            From the request to the answer's end.
        """
        self._finished.labels(self._model_name, reason).inc()
        self._prompt.observe(prompt_tokens)
        self._generation.observe(completion_tokens)
        self._latency.observe(seconds)

    def phases(
        self, queue: float, first_token: float, end: float, *, completion_tokens: int
    ) -> None:
        """Count the phases of an answer, by when each ended, in seconds since the request.

        Parameters
        ----------
        queue, first_token, end : float
            When the first step began, the first token came and the answer ended, in seconds since
            the request.
        completion_tokens : int
            Tokens of the answer.
        """
        decode = end - first_token
        seconds = {
            "queue_time": queue,
            "prefill_time": max(first_token - queue, 0.0),  # two threads read the clock
            "decode_time": decode,
            "inference_time": max(end - queue, 0.0),
            "time_per_output_token": decode / max(completion_tokens - 1, 1),
        }
        for name, histogram in self._phases.items():
            histogram.observe(seconds[name])

    def render(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Any:
        histogram = Histogram(
            name, meaning, ["model_name"], buckets=buckets, registry=self._registry
        )
        return histogram.labels(self._model_name)


class _EngineCollector(Collector):
    """What the engine counts itself, read when Prometheus asks."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        self._labels, self._stats = [model_name], stats

    def collect(self) -> Iterator[Any]:
        """Yield the metrics."""
        stats = self._stats()
        gauges = {
            "vllm:num_requests_running": ("Answers that are generated.", stats.running),
            "vllm:num_requests_waiting": ("Requests that wait.", stats.waiting),
            "vllm:kv_cache_usage_perc": ("Part of the memory in use.", _usage(stats)),
        }
        counters: dict[str, tuple[str, float]] = {
            "vllm:prompt_tokens": ("Tokens of prompts computed.", stats.prefill_tokens),
            "vllm:generation_tokens": ("Tokens of answers computed.", stats.decode_tokens),
            "vllm:num_preemptions": ("Answers that lost their memory: none ever does.", 0),
            "vllm:prefix_cache_queries": (
                "Tokens of prompts.",
                stats.prefill_tokens + stats.reused_tokens,
            ),
            "vllm:prefix_cache_hits": ("Tokens of prompts that were known.", stats.reused_tokens),
            f"{DRAFTS}drafts": ("Steps of a sequence that verified drafts.", stats.drafted[0]),
            f"{DRAFTS}draft_tokens": ("Tokens drafted.", sum(stats.drafted)),
            f"{DRAFTS}accepted_tokens": ("Drafts that became tokens.", sum(stats.accepted)),
        }
        if stats.expert_cache:
            counters |= _store_counters(stats.expert_cache)
            held = stats.expert_cache.held_bytes
            gauges["mimo:expert_cache_bytes"] = ("Bytes of the experts that are held.", held)
        for family, entries in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, (meaning, value) in entries.items():
                metric = family(name, meaning, labels=["model_name"])
                metric.add_metric(self._labels, value)
                yield metric
        by_position = CounterMetricFamily(
            f"{DRAFTS}accepted_tokens_per_pos",
            "Drafts that became tokens, by MTP head.",
            labels=["model_name", "position"],
        )
        for position, accepted in enumerate(stats.accepted):
            by_position.add_metric([*self._labels, str(position)], accepted)
        yield by_position

    def describe(self) -> Iterator[Any]:
        """Yield nothing: the metrics are not read to be registered."""
        return iter(())


def _store_counters(store: StoreStats) -> dict[str, tuple[str, float]]:
    """Return the counters of an expert store, which vLLM has no names for."""
    uses = store.hits + store.misses
    return {
        "mimo:expert_cache_queries": ("Experts that calls of layers used.", uses),
        "mimo:expert_cache_hits": ("Those that were held.", store.hits),
        "mimo:expert_cache_read_bytes": ("Bytes of experts read.", store.read_bytes),
        "mimo:expert_cache_wait_seconds": ("Time that calls waited for.", store.wait_seconds),
    }


def _usage(stats: EngineStats) -> float:
    """Return the part of an engine's memory that is in use; 0 if it has no limit."""
    return stats.memory_bytes / stats.max_memory_bytes if stats.max_memory_bytes else 0.0
