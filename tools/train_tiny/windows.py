"""Training sequences: windows of the text in an order that depends on seed and step alone."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .shape import LENGTH
from .tokens import END_OF_TEXT

__all__ = ["Windows", "in_order"]


class Windows:
    """Shuffled windows of the text; every epoch has another offset and another order.

    Parameters
    ----------
    tokens
        File of the token ids of the text, as `numpy.save` writes it.
    rows
        Sequences of one step.
    seed
        Seed of offsets and orders.
    """

    def __init__(self, tokens: Path, rows: int, seed: int) -> None:
        self._tokens = np.load(tokens)
        self._rows, self._seed = rows, seed
        self.steps_per_epoch = ((len(self._tokens) - LENGTH) // LENGTH) // rows

    def of_step(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of `step`, [rows, LENGTH]; inputs begin with end-of-text."""
        epoch, epoch_step = divmod(step, self.steps_per_epoch)
        generator = np.random.default_rng((self._seed, epoch))
        begin = generator.integers(LENGTH)
        order = generator.permutation(self.steps_per_epoch * self._rows)
        windows = order[epoch_step * self._rows : (epoch_step + 1) * self._rows]
        return pairs(np.stack([self._at(begin + LENGTH * each) for each in windows]))

    def _at(self, begin: int) -> np.ndarray:
        return self._tokens[begin : begin + LENGTH]


def in_order(tokens: Path, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of the first `most` whole windows of a text, for evaluation."""
    ids = np.load(tokens)
    whole = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
    return pairs(whole[:most])


def pairs(target_BT: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the inputs for which a model predicts `target_BT`, and the targets."""
    target = torch.from_numpy(target_BT.astype(np.int64))
    first = torch.full_like(target[:, :1], END_OF_TEXT)
    return torch.cat([first, target[:, :-1]], dim=1), target
