"""Training sequences: windows of the text in an order that a seed and a step decide alone."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .shape import LENGTH
from .tokens import END_OF_TEXT

__all__ = ["Windows", "in_order"]


class Windows:
    """Every epoch cuts the text anew, somewhere else, and shuffles the pieces.

    Parameters
    ----------
    tokens
        File of the whole text's ids, as `numpy.save` writes it.
    rows
        Sequences of one step.
    seed
        Decides cuts and order.
    """

    def __init__(self, tokens: Path, rows: int, seed: int) -> None:
        self._tokens = np.load(tokens)
        self._rows, self._seed = rows, seed
        self.steps_per_epoch = ((len(self._tokens) - LENGTH) // LENGTH) // rows

    def of_step(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of `step`, [rows, LENGTH]; inputs begin with end-of-text."""
        epoch, turn = divmod(step, self.steps_per_epoch)
        generator = np.random.default_rng((self._seed, epoch))
        begin = generator.integers(LENGTH)
        order = generator.permutation(self.steps_per_epoch * self._rows)
        chosen = order[turn * self._rows : (turn + 1) * self._rows]
        return pairs(np.stack([self._at(begin + LENGTH * each) for each in chosen]))

    def _at(self, begin: int) -> np.ndarray:
        return self._tokens[begin : begin + LENGTH]


def in_order(tokens: Path, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the first `most` whole windows of a text, in order: what evaluation reads."""
    ids = np.load(tokens)
    whole = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
    return pairs(whole[:most])


def pairs(target_BT: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return what a model is given to predict `target_BT`, and `target_BT`."""
    target = torch.from_numpy(target_BT.astype(np.int64))
    begun = torch.full_like(target[:, :1], END_OF_TEXT)
    return torch.cat([begun, target[:, :-1]], dim=1), target
