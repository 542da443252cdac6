"""Gradients of the parts of a training step, each computed by a thread of its own.

PyTorch divides each operation among its threads, most of which are too short for that here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from .packing import Batch

__all__ = ["PARTS", "PartGradients"]

PARTS = 2  # of a step; it does not depend on the machine, so that results do not


class PartGradients:
    """Threads that compute gradients of a model, as many as a step has parts.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters = [each for each in model.parameters() if each.requires_grad]
        threads = max(1, torch.get_num_threads() // PARTS)
        self._pool = ThreadPoolExecutor(PARTS, "part", torch.set_num_threads, (threads,))

    def add(self, loss_of: Callable[[Any, Batch], Tensor], parts: Sequence[Batch]) -> float:
        """Set the gradients of the mean loss of all tokens that count; return that loss.

        Parameters
        ----------
        loss_of
            It returns the mean loss of the model on the tokens of a part that count.
        parts
            The parts of a step.
        """
        counts = [int(part.counts_N.sum()) for part in parts]

        def backward(part: Batch, count: int) -> tuple[float, tuple[Tensor, ...]]:
            loss = loss_of(self._model, part) * (count / sum(counts))
            return loss.item(), torch.autograd.grad(loss, self._parameters)

        losses, gradients = zip(*self._pool.map(backward, parts, counts), strict=True)
        for each, *shares in zip(self._parameters, *gradients, strict=True):
            each.grad = shares[0]
            for share in shares[1:]:
                each.grad += share
        return sum(losses)
