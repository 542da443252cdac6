"""One process of `benchmarks.expert_store`: decodes from mapped files or a store, or reads alone.

Expert ids are drawn and not routed: random weights route almost alike, so that nothing comes again.
A token takes each expert of the token before with probability `REUSE`, and others by popularity
that falls as a power `SKEW` of the rank.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash import load_model
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.expert_store import store_stats
from mimo_v2_flash.expert_store.file_reader import FileReader, new_buffer
from mimo_v2_flash.expert_store.record_layout import FileRegion, lay_out_record
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.embedding import embed
from mimo_v2_flash.layers.feed_forward import MixtureOfExperts

__all__ = ["DrawnRouting", "main"]

REUSE, SKEW = 0.32, 0.65  # of OLMoE's published traces: docs/expert_caching.md says so
READ_AT_ONCE = 1 << 28  # bytes of the reads that measure the disk


class DrawnRouting(NumpyBackend):
    """A NumPy backend whose experts are drawn: the same ones for a seed, whatever the tokens."""

    def __init__(self, seed: int) -> None:
        self._random, self._layer = np.random.default_rng(seed), -1
        self._last: dict[int, np.ndarray] = {}
        self._odds: dict[int, np.ndarray] = {}

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function`; a decoder layer with experts gets drawn ids."""
        if isinstance(function, DecoderLayer):
            function = self._drawn(function)

        def program(*args: Any, **kwargs: Any) -> Any:
            is_layer = isinstance(function, DecoderLayer)
            self._layer = -1 if function is embed else self._layer + is_layer
            return function(*args, **kwargs)

        return program

    def _drawn(self, layer: DecoderLayer) -> DecoderLayer:
        block = layer.feed_forward_block
        mixture = block.feed_forward
        if not isinstance(mixture, MixtureOfExperts):
            return layer

        def draw(x_ND: Any, weight_NA: Any, expert_NA: Any, experts: Any, **options: Any) -> Any:
            rows = [self._next(len(experts), expert_NA.shape[1]) for _ in range(len(x_ND))]
            ids_NA = np.array(rows, np.int32).reshape(expert_NA.shape)
            return mixture.expert_fn(x_ND, weight_NA, ids_NA, experts, **options)

        block = replace(block, feed_forward=replace(mixture, expert_fn=draw))
        return replace(layer, feed_forward_block=block)

    def _next(self, experts: int, count: int) -> np.ndarray:
        """Return the experts of the next token in this layer."""
        random, layer = self._random, self._layer
        if layer not in self._odds:
            odds = random.permutation(np.arange(1, experts + 1) ** -SKEW)
            self._odds[layer], self._last[layer] = odds / odds.sum(), np.zeros(0, int)
        last = self._last[layer]
        kept = last[random.random(len(last)) < REUSE]
        odds = self._odds[layer].copy()
        odds[kept] = 0
        fresh = random.choice(experts, count - len(kept), replace=False, p=odds / odds.sum())
        self._last[layer] = np.sort(np.concatenate([kept, fresh]).astype(int))
        return self._last[layer]


def main() -> int:
    """Run one measurement, and print its numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--policy", help="Of a store; mapped files without.")
    parser.add_argument("--budget", default="16GiB")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", type=int, help="Read so many bytes, and decode nothing.")
    options = parser.parse_args()
    numbers = _read_disk(options.folder, options.disk) if options.disk else _decode(options)
    sys.stdout.write(json.dumps(numbers) + "\n")
    return 0


def _decode(options: argparse.Namespace) -> dict[str, Any]:
    """Decode tokens one by one; return the seconds of each, and what was read."""
    store = {}
    if options.policy:
        store = {"expert_cache": options.budget, "expert_cache_policy": options.policy}
    model = load_model(options.folder, backend=DrawnRouting(options.seed), **store)
    cache, seconds, logits = model.new_cache(1, options.tokens), [], None
    for position in range(options.tokens):
        start = time.perf_counter()
        logits = model.step([[7]], [[position]], cache)
        seconds.append(time.perf_counter() - start)
    stats = store_stats(model)
    return {
        "policy": options.policy,
        "token_seconds": seconds,
        "logits_sum": float(np.sum(logits, dtype=np.float64)),
        "stats": stats and stats._asdict(),
        "disk_bytes": _io("read_bytes"),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "anonymous_bytes": _status("RssAnon"),
    }


def _read_disk(folder: Path, size: int) -> dict[str, Any]:
    """Return the rate at which the store's reader reads the largest file from end to end."""
    file = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    whole = file.stat().st_size
    size, buffer = min(size, whole), new_buffer(READ_AT_ONCE)
    reader, seconds = FileReader({str(file): whole}), 0.0
    for begin in range(0, size, READ_AT_ONCE):
        part = min(READ_AT_ONCE, size - begin)
        layout = lay_out_record([FileRegion(str(file), whole, begin, np.uint8, (part,))])
        start = time.perf_counter()
        reader.read([(layout, buffer)])
        seconds += time.perf_counter() - start
    rate = size / seconds
    return {"bytes": size, "bytes_per_second": rate, "is_direct": reader.is_direct}


def _io(name: str) -> int:
    return _field(Path("/proc/self/io"), name)


def _status(name: str) -> int:
    return 1024 * _field(Path("/proc/self/status"), name)


def _field(file: Path, name: str) -> int:
    lines = (line.split(":") for line in file.read_text().splitlines() if ":" in line)
    return int({key: value for key, value, *_ in lines}[name].split()[0])


if __name__ == "__main__":
    sys.exit(main())
