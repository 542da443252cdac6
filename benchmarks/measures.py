"""What a contender's process measures, from its start to its peak of memory."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .clock import seconds
from .contenders import Contender, Ours, contender
from .machine import bytes_per_second

__all__ = ["QUICK", "UNSHARDED", "ParallelConfig", "measured"]


class ParallelConfig(NamedTuple):
    """How much of everything; tokens, but for `rows`."""

    first: int = 32  # of the prompt whose answer's first token is waited for
    prompt: int = 512
    new: int = 64  # decoded
    rows: int = 8  # of the larger batch
    long: int = 4096
    trial: int = 128  # of a prompt that settles what is fastest
    compared: int = 64  # whose logits are compared


UNSHARDED = ParallelConfig()
QUICK = ParallelConfig(first=8, prompt=32, new=4, rows=8, long=600, trial=16)


def measured(name: str, folder: Path, plan: ParallelConfig, started: float) -> dict[str, Any]:
    """Return the seconds and bytes that contender `name` takes for `plan`.

    `started` is the time at which its process was started. Logits are left in `folder`.
    """
    tokens = _tokens(plan)
    model = contender(name, folder)
    np.argmax(model.prefill(tokens["first"]))
    found: dict[str, Any] = {"first_token": time.time() - started, "settings": {}}
    first_peak = _peak_bytes()
    np.save(folder / f"{name}.npy", model.logits(tokens["compared"]))
    settings = found["settings"]
    settings["prefill"] = model.settle(lambda: model.prefill(tokens["trial"]))
    room = 3 * plan.new
    found["prefill"] = seconds(lambda: model.prefill(tokens["prompt"], room=room))
    settings["decode_1"] = model.settle(lambda: model.decode(tokens["new"][0, :1]))
    found |= _decode("decode_1", model, tokens["new"][:, :1])
    model.fill(tokens["prompt"][0], rows=plan.rows, room=room)
    settings["decode_8"] = model.settle(lambda: model.decode(tokens["new"][0]))
    found |= _decode("decode_8", model, tokens["new"])
    settings["prefill_long"] = model.settle(lambda: model.prefill(tokens["trial"]))
    found["prefill_long"] = seconds(lambda: model.prefill(tokens["long"]))
    return found | {"first_peak_bytes": first_peak, "peak_bytes": _peak_bytes()}


def _tokens(plan: ParallelConfig) -> dict[str, np.ndarray]:
    """Return the same random tokens for every contender."""
    shapes = {
        "first": (1, plan.first),
        "compared": (1, plan.compared),
        "trial": (1, plan.trial),
        "prompt": (1, plan.prompt),
        "new": (plan.new, plan.rows),
        "long": (1, plan.long),
    }
    random = np.random.default_rng(0)
    vocabulary = 4096
    return {name: random.integers(0, vocabulary, shape) for name, shape in shapes.items()}


def _decode(which: str, model: Contender, token_NB: np.ndarray) -> dict[str, Any]:
    """Return the seconds of a step.

    Of what is stored here also the bytes of weights that it reads, and how fast these weights can
    be read, before and after.
    """
    if not isinstance(model, Ours):
        return {which: _step_seconds(model, token_NB)}
    from .touched import bytes_of_step  # noqa: PLC0415

    before = bytes_per_second(model.stored())
    taken = _step_seconds(model, token_NB)
    rates = before, bytes_per_second(model.stored())
    read = bytes_of_step(model, token_NB)
    return {which: taken, f"{which}_bytes": read, f"{which}_read": rates}


def _step_seconds(model: Contender, token_NB: np.ndarray) -> float:
    return seconds(lambda: [model.decode(token_B) for token_B in token_NB]) / len(token_NB)


def _peak_bytes() -> int:
    """Return the most memory that was resident, files that are mapped included."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
