"""Training loop: learning rate, length by measured speed, checkpoints, logs and resumption."""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mimo_v2_flash.atomic_file import atomic_write

from .optimizer import MuonAdamW

__all__ = ["Budget", "TrainingRun"]

PEAK, SAVE_EVERY = 1e-2, 100
MEASURED = 0.1  # share of the minutes after which their speed chooses the length


class Budget(NamedTuple):
    """How long a run lasts: a number of steps, or minutes from which its speed chooses one.

    Attributes
    ----------
    warm_up
        Steps until the peak learning rate.
    steps
        Number of steps in all, if it is known.
    minutes
        Minutes of the run, used if `steps` is None.
    """

    warm_up: int
    steps: int | None = None
    minutes: float = math.inf


class TrainingRun:
    """The steps of one training run, from its last checkpoint to its end.

    The learning rate rises to its peak, stays there until the length is known, then falls to 0.

    Parameters
    ----------
    path
        Path without suffix; the state is saved in `path.pt`, the log in `path.jsonl`.
    model
        The model to train, restored from `path.pt` if it exists.
    budget
        Its length; a length that was chosen before `path.pt` was saved stays.
    clock
        It returns seconds.

    Attributes
    ----------
    length
        The number of steps; None while it is not known.
    """

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        budget: Budget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._log = path.with_suffix(".pt"), path.with_suffix(".jsonl")
        self._model, self._optimizer = model, MuonAdamW(model)
        self._budget, self._clock = budget, clock
        self.length, self._falls_from = budget.steps, budget.warm_up
        self._begin, self._spent = 0, 0.0
        if self._state.exists():
            self._resume()
        self._since = clock()

    def steps(self, until: float = math.inf) -> Iterator[int]:
        """Yield the remaining steps; the body of the loop computes the gradients of each.

        After each step the optimizer applies them. The state is saved every `SAVE_EVERY` steps, at
        the end, and when the run has lasted `until` seconds: then it stops.
        """
        step = self._begin
        while step != self.length:
            yield step
            self._optimizer.update(self._rate(step))
            step += 1
            self._choose_length(step)
            is_over = step == self.length or self.seconds >= until
            if is_over or step % SAVE_EVERY == 0:
                self._save(step)
            if is_over:
                break

    def log(self, step: int, **figures: float) -> None:
        """Append a line to the log."""
        line = {"step": step + 1, "rate": self._rate(step), **figures, "seconds": self.seconds}
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: round(value, 5) for name, value in line.items()}) + "\n")

    @property
    def seconds(self) -> float:
        """Seconds of the run, those before it was resumed included."""
        return self._spent + self._clock() - self._since

    def progress(self, step: int) -> float:
        """Return which share of the steps is done, 0 while the length is not known."""
        return step / self.length if self.length else 0.0

    def _choose_length(self, step: int) -> None:
        budget = 60 * self._budget.minutes
        if self.length is None and self.seconds >= MEASURED * budget:
            remaining = max(budget - self.seconds, 0)
            self.length = max(step + round(step * remaining / self.seconds), step + 1)
            self._falls_from = step

    def _rate(self, step: int) -> float:
        rate = PEAK * min((step + 1) / self._budget.warm_up, 1.0)
        if self.length is not None:
            remaining = (self.length - step) / max(self.length - self._falls_from, 1)
            rate = min(rate, PEAK * remaining)
        return rate

    def _save(self, step: int) -> None:
        state = {
            "model": self._model.state_dict(),
            "learner": self._optimizer.state_dict(),
            "step": step,
            "length": self.length,
            "falls_from": self._falls_from,
            "seconds": self.seconds,
        }
        with atomic_write(self._state) as partial:
            torch.save(state, partial)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self._state, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["learner"])
        self._begin, self._spent = state["step"], state["seconds"]
        if state["length"] is not None:
            self.length, self._falls_from = state["length"], state["falls_from"]
        if self._log.exists():
            lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # the last may be torn
            kept = [line for line in whole if json.loads(line)["step"] <= self._begin]
            with atomic_write(self._log) as partial:
                partial.write_text("".join(kept), encoding="utf-8")
