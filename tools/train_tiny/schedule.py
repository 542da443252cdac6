"""How anything is trained here: Muon and AdamW, warm-up and linear decay, saved, logged, resumable.

Source of Muon: K. Jordan et al., 2024 (kellerjordan.github.io/posts/muon); PyTorch's own, which
knows matrices only: a stack of experts is handed to it matrix by matrix, in the stack's own memory.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["Learner", "Pace", "narrow"]

PEAK, CLIP, SAVE_EVERY = 1e-2, 1.0, 100
BETAS, DECAY = (0.9, 0.95), 0.1
NOT_MUON = ("embed_tokens", "lm_head", ".gate.weight")  # tables and routers: rows, not maps


def narrow() -> torch.autocast:
    """Return a context of bfloat16 products where the CPU has them, of float32 elsewhere."""
    quick = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=quick)


class Learner:
    """Muon over the matrices of `model`, AdamW over everything else; one learning rate."""

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
        self._parts: list[torch.optim.Optimizer] = [muon, adam]

    def update(self, rate: float) -> None:
        """Apply the model's gradients, clipped, at this learning rate, and forget them."""
        nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
        for stack, parts in self._stacks.items():
            for part, gradient in zip(parts, stack.grad, strict=True):
                part.grad = gradient
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
        self._model.zero_grad(set_to_none=True)

    def state_dict(self) -> list[Any]:
        """Return what `load_state_dict` needs."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: list[Any]) -> None:
        """Go on from `state`."""
        for part, of_part in zip(self._parts, state, strict=True):
            part.load_state_dict(of_part)


def is_map(name: str, weight: nn.Parameter) -> bool:
    """Tell whether a parameter is a matrix, or a stack of them, that maps what it is given."""
    return weight.ndim > 1 and not any(part in name for part in NOT_MUON)


class Pace:
    """The steps of one training, from where it was interrupted to its end.

    Parameters
    ----------
    path
        Without suffix: the state goes to `path.pt`, the log to `path.jsonl`.
    model
        What learns; restored from `path.pt` if it exists.
    warm_up, length
        Steps until the learning rate is highest, and all steps.
    """

    def __init__(self, path: Path, model: nn.Module, *, warm_up: int, length: int) -> None:
        self._state, self._log = path.with_suffix(".pt"), path.with_suffix(".jsonl")
        self._model, self._learner = model, Learner(model)
        self._warm_up, self._length = warm_up, length
        self._begin, self._spent = 0, 0.0
        if self._state.exists():
            self._resume()
        self._since = time.monotonic()

    def steps(self) -> Iterator[int]:
        """Give the steps that are left; learn after each, and save now and then and at the end.

        Whoever takes a step leaves its gradients.
        """
        for step in range(self._begin, self._length):
            yield step
            self._learner.update(self._rate(step))
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == self._length:
                self._save(step + 1)

    def note(self, step: int, **figures: float) -> None:
        """Append a line to the log."""
        line = {"step": step + 1, "rate": self._rate(step), **figures, "seconds": self._seconds()}
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps({name: round(value, 5) for name, value in line.items()}) + "\n")

    def _rate(self, step: int) -> float:
        left = (self._length - step) / (self._length - self._warm_up)
        return PEAK * min((step + 1) / self._warm_up, left)

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._since

    def _save(self, step: int) -> None:
        state = {
            "model": self._model.state_dict(),
            "learner": self._learner.state_dict(),
            "step": step,
            "seconds": self._seconds(),
        }
        half = self._state.with_suffix(".half")
        torch.save(state, half)
        half.replace(self._state)

    def _resume(self) -> None:
        state = torch.load(self._state, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._learner.load_state_dict(state["learner"])
        self._begin, self._spent = state["step"], state["seconds"]
        if self._log.exists():
            lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= self._begin]
            self._log.write_text("".join(kept), encoding="utf-8")
