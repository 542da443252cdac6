"""Optimizer: Muon for matrices, all of one shape at once, and AdamW for the other weights.

Source of Muon: K. Jordan et al., 2024 (kellerjordan.github.io/posts/muon), with the factor on the
rate that gives updates the size of AdamW's, as in `torch.optim.Muon`, which is its oracle.
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MuonAdamW", "orthogonalise"]

CLIP, BETAS, DECAY, MOMENTUM = 1.0, (0.9, 0.95), 0.1, 0.95
NEWTON_SCHULZ, STEPS = (3.4445, -4.7750, 2.0315), 5
NOT_MUON = ("embed_tokens", "lm_head", ".gate.weight")  # tables and routers: rows, not linear maps


class MuonAdamW:
    """Muon for the matrices of `model`, AdamW for other weights, one learning rate."""

    def __init__(self, model: nn.Module) -> None:
        named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        self._parameters = [each for _, each in named]
        others = [each for name, each in named if not is_map(name, each)]
        self._groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for name, each in named:
            if is_map(name, each):
                self._groups.setdefault(each.shape[-2:], []).append(each)
        self._momentum = {
            shape: torch.zeros(sum(each.numel() for each in maps) // shape.numel(), *shape)
            for shape, maps in self._groups.items()
        }
        self._adam = torch.optim.AdamW(others, betas=BETAS, weight_decay=DECAY, fused=True)

    def update(self, rate: float) -> None:
        """Clip the gradients, apply them at learning rate `rate`, and clear them."""
        nn.utils.clip_grad_norm_(self._parameters, CLIP)
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        with torch.no_grad():
            for shape, maps in self._groups.items():
                self._update_maps(maps, self._momentum[shape], rate)
        for each in self._parameters:
            each.grad = None

    def _update_maps(self, maps: list[nn.Parameter], momentum: Tensor, rate: float) -> None:
        """Apply Nesterov's gradients of maps of one shape, orthogonalised."""
        rows, columns = momentum.shape[-2:]
        gradient = torch.cat([each.grad.view(-1, rows, columns) for each in maps])
        momentum.lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalise(gradient.lerp_(momentum, MOMENTUM))
        counts = [each.numel() // (rows * columns) for each in maps]
        for each, part in zip(maps, update.split(counts), strict=True):
            each.mul_(1 - rate * DECAY)
            each.add_(part.view_as(each), alpha=-rate * 0.2 * max(rows, columns) ** 0.5)

    def state_dict(self) -> list[Any]:
        """Return the state of both optimizers."""
        return [list(self._momentum.values()), self._adam.state_dict()]

    def load_state_dict(self, state: list[Any]) -> None:
        """Restore the state of both optimizers."""
        momenta, adam = state
        for momentum, value in zip(self._momentum.values(), momenta, strict=True):
            momentum.copy_(value)
        self._adam.load_state_dict(adam)


def is_map(name: str, weight: nn.Parameter) -> bool:
    """Return whether a parameter is the matrix of a linear map, or a stack of such matrices."""
    return weight.ndim > 1 and not any(part in name for part in NOT_MUON)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return the nearest semi-orthogonal matrices, roughly: Newton and Schulz's steps."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16()
    x = x.mT.contiguous() if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()
