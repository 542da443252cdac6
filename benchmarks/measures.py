"""Measurements of one implementation, from the start of its process to its peak memory."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .clock import seconds
from .implementations import Implementation, Ours, load_implementation
from .machine import bytes_per_second

__all__ = ["FULL", "QUICK", "Workload", "measure"]


class Workload(NamedTuple):
    """Sizes of the benchmark, in tokens; `rows` in sequences."""

    first: int = 32  # of the prompt for the time to the first token
    prompt: int = 512  # of the shorter prefill, and before decoding
    new: int = 64  # decoded per sequence
    rows: int = 8  # of the larger decoding batch
    long: int = 4096  # of the longer prefill
    trial: int = 128  # of the prefill for warm-up and for choosing the fastest setting
    compared: int = 64  # of the prompt whose logits are compared


FULL = Workload()
QUICK = Workload(first=8, prompt=32, new=4, rows=8, long=600, trial=16)


def measure(name: str, folder: Path, workload: Workload, started: float) -> dict[str, Any]:
    """Return the seconds and bytes that implementation `name` takes for `workload`.

    `started` is the time at which its process was started. Logits are saved in `folder`.
    """
    tokens = _tokens(workload)
    model = load_implementation(name, folder)
    np.argmax(model.prefill(tokens["first"]))
    results: dict[str, Any] = {"first_token": time.time() - started, "settings": {}}
    first_peak = _peak_bytes()
    np.save(folder / f"{name}.npy", model.logits(tokens["compared"]))
    settings = results["settings"]
    settings["prefill"] = model.tune(lambda: model.prefill(tokens["trial"]))
    room = 3 * workload.new
    results["prefill"] = seconds(lambda: model.prefill(tokens["prompt"], room=room))
    settings["decode_1"] = model.tune(lambda: model.decode(tokens["new"][0, :1]))
    results |= _decode("decode_1", model, tokens["new"][:, :1])
    model.fill(tokens["prompt"][0], rows=workload.rows, room=room)
    settings["decode_8"] = model.tune(lambda: model.decode(tokens["new"][0]))
    results |= _decode("decode_8", model, tokens["new"])
    settings["prefill_long"] = model.tune(lambda: model.prefill(tokens["trial"]))
    results["prefill_long"] = seconds(lambda: model.prefill(tokens["long"]))
    return results | {"first_peak_bytes": first_peak, "peak_bytes": _peak_bytes()}


def _tokens(workload: Workload) -> dict[str, np.ndarray]:
    """Return random tokens, the same for every implementation."""
    shapes = {
        "first": (1, workload.first),
        "compared": (1, workload.compared),
        "trial": (1, workload.trial),
        "prompt": (1, workload.prompt),
        "new": (workload.new, workload.rows),
        "long": (1, workload.long),
    }
    random = np.random.default_rng(0)
    vocabulary = 4096
    return {name: random.integers(0, vocabulary, shape) for name, shape in shapes.items()}


def _decode(which: str, model: Implementation, token_NB: np.ndarray) -> dict[str, Any]:
    """Return the seconds of a decoding step.

    Of this project also the bytes of weights that a step reads, and the read bandwidth for these
    weights, before and after.
    """
    if not isinstance(model, Ours):
        return {which: _step_seconds(model, token_NB)}
    from .touched import bytes_of_step  # noqa: PLC0415

    before = bytes_per_second(model.stored())
    elapsed = _step_seconds(model, token_NB)
    rates = before, bytes_per_second(model.stored())
    read = bytes_of_step(model, token_NB)
    return {which: elapsed, f"{which}_bytes": read, f"{which}_read": rates}


def _step_seconds(model: Implementation, token_NB: np.ndarray) -> float:
    return seconds(lambda: [model.decode(token_B) for token_B in token_NB]) / len(token_NB)


def _peak_bytes() -> int:
    """Return the peak of resident memory, mapped files included."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
