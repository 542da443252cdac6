"""Training loop: Muon and AdamW, warm-up and linear decay, with checkpoints, logs and resumption.

Source of Muon: K. Jordan et al., 2024 (kellerjordan.github.io/posts/muon). PyTorch's Muon accepts
matrices only, so a stack of experts is passed matrix by matrix, as views of the stack's memory.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimo_v2_flash.atomic_file import atomic_write

__all__ = ["MuonAdamW", "TrainingRun", "autocast"]

PEAK, CLIP, SAVE_EVERY = 1e-2, 1.0, 100
BETAS, DECAY = (0.9, 0.95), 0.1
NOT_MUON = ("embed_tokens", "lm_head", ".gate.weight")  # tables and routers: rows, not linear maps


def autocast() -> torch.autocast:
    """Return a bfloat16 autocast context; without effect if the CPU has no bfloat16 matmuls."""
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=supported)


class MuonAdamW:
    """Optimizer: Muon for the matrices of `model`, AdamW for other weights, one learning rate."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        maps = [each for name, each in model.named_parameters() if is_map(name, each)]
        others = [each for name, each in model.named_parameters() if not is_map(name, each)]
        self._stacks = {
            each: [nn.Parameter(w) for w in each.data] for each in maps if each.ndim > 2
        }
        matrices = [each for each in maps if each.ndim == 2]
        matrices += [part for parts in self._stacks.values() for part in parts]
        muon = torch.optim.Muon(matrices, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
        adam = torch.optim.AdamW(others, betas=BETAS, weight_decay=DECAY, fused=True)
        self._optimizers: list[torch.optim.Optimizer] = [muon, adam]

    def update(self, rate: float) -> None:
        """Clip the gradients of the model, apply them at learning rate `rate`, and clear them."""
        nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
        for stack, parts in self._stacks.items():
            for part, gradient in zip(parts, stack.grad, strict=True):
                part.grad = gradient
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self._model.zero_grad(set_to_none=True)

    def state_dict(self) -> list[Any]:
        """Return the state of both optimizers."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, state: list[Any]) -> None:
        """Restore the state of both optimizers."""
        for optimizer, optimizer_state in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(optimizer_state)


def is_map(name: str, weight: nn.Parameter) -> bool:
    """Return whether a parameter is the matrix of a linear map, or a stack of such matrices."""
    return weight.ndim > 1 and not any(part in name for part in NOT_MUON)


class TrainingRun:
    """The steps of one training run, from its last checkpoint to its end.

    Parameters
    ----------
    path
        Path without suffix; the state is saved in `path.pt`, the log in `path.jsonl`.
    model
        The model to train, restored from `path.pt` if it exists.
    warm_up, length
        Steps until the peak learning rate, and number of steps in all.
    """

    def __init__(self, path: Path, model: nn.Module, *, warm_up: int, length: int) -> None:
        self._state, self._log = path.with_suffix(".pt"), path.with_suffix(".jsonl")
        self._model, self._optimizer = model, MuonAdamW(model)
        self._warm_up, self._length = warm_up, length
        self._begin, self._spent = 0, 0.0
        if self._state.exists():
            self._resume()
        self._since = time.monotonic()

    def steps(self) -> Iterator[int]:
        """Yield the remaining steps; the body of the loop computes the gradients of each.

        After each step the optimizer applies them. The state is saved every `SAVE_EVERY` steps and
        at the end.
        """
        for step in range(self._begin, self._length):
            yield step
            self._optimizer.update(self._rate(step))
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == self._length:
                self._save(step + 1)

    def log(self, step: int, **figures: float) -> None:
        """Append a line to the log."""
        line = {"step": step + 1, "rate": self._rate(step), **figures, "seconds": self._seconds()}
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: round(value, 5) for name, value in line.items()}) + "\n")

    def _rate(self, step: int) -> float:
        remaining = (self._length - step) / (self._length - self._warm_up)
        return PEAK * min((step + 1) / self._warm_up, remaining)

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._since

    def _save(self, step: int) -> None:
        state = {
            "model": self._model.state_dict(),
            "learner": self._optimizer.state_dict(),
            "step": step,
            "seconds": self._seconds(),
        }
        with atomic_write(self._state) as partial:
            torch.save(state, partial)

    def _resume(self) -> None:
        state = torch.load(self._state, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["learner"])
        self._begin, self._spent = state["step"], state["seconds"]
        if self._log.exists():
            lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # the last may be torn
            kept = [line for line in whole if json.loads(line)["step"] <= self._begin]
            with atomic_write(self._log) as partial:
                partial.write_text("".join(kept), encoding="utf-8")
