"""Training steps: windows of documents and whole conversations, packed into as many tokens each.

What a step holds depends on the seed and its number alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .attention import Segments
from .shape import Shape
from .tokens import END_OF_TEXT

__all__ = ["Batch", "Batches", "Conversations", "Windows", "pack"]

ROUND = 64  # segments are padded to a multiple: oneDNN prepares each new shape anew
PART_ROUND = 512  # batches too
DOCUMENTS = 0.5  # share of a step's tokens that are documents, where there are conversations

Sequence = tuple[np.ndarray, np.ndarray]
"""Tokens, and which of them count."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The tokens of one step.

    Attributes
    ----------
    token_N, next_N
        Each token, and the one after it.
    counts_N
        Whether the next token counts in the loss.
    segments
        Where sequences begin and end.
    """

    token_N: Tensor
    next_N: Tensor
    counts_N: Tensor
    segments: Segments


class Windows:
    """Shuffled windows of documents; every epoch has another offset and another order.

    Parameters
    ----------
    tokens
        File of the token ids of the text, as `numpy.save` writes it.
    rows
        Windows of one step.
    length
        Tokens of a window.
    seed
        Seed of offsets and orders.
    """

    def __init__(self, tokens: Path, rows: int, length: int, seed: int) -> None:
        self._tokens = np.load(tokens)
        self._rows, self._length, self._seed = rows, length, seed
        self.steps_per_epoch = ((len(self._tokens) - length) // length) // rows

    def of_step(self, step: int) -> list[Sequence]:
        """Return sequences, each begun by end-of-text, and which of their tokens count."""
        epoch, epoch_step = divmod(step, self.steps_per_epoch)
        generator = np.random.default_rng((self._seed, epoch))
        begin = generator.integers(self._length)
        order = generator.permutation(self.steps_per_epoch * self._rows)
        windows = order[epoch_step * self._rows : (epoch_step + 1) * self._rows]
        return [self._at(begin + self._length * each) for each in windows]

    def _at(self, begin: int) -> Sequence:
        return begun(self._tokens[begin : begin + self._length])


def begun(tokens: np.ndarray) -> Sequence:
    """Return a text's tokens after end-of-text, all of which count."""
    sequence = np.concatenate([[END_OF_TEXT], tokens]).astype(np.int64)
    return sequence, np.ones(len(sequence), bool)


class Conversations:
    """Shuffled whole conversations, as many as fit into a step.

    Parameters
    ----------
    file
        Arrays `token`, `counts` and `start` (of each conversation), as `numpy.savez` writes them.
    room
        Tokens of a step that conversations may have.
    seed
        Seed of the orders.
    """

    def __init__(self, file: Path, room: int, seed: int) -> None:
        with np.load(file) as arrays:
            self._token, self._counts, self._start = (
                arrays[name] for name in ("token", "counts", "start")
            )
        self._room, self._seed = room, seed
        self._length = np.diff([*self._start, len(self._token)])
        self._size = (self._length + ROUND - 2) // ROUND * ROUND
        self._epochs: list[list[np.ndarray]] = []

    def of_step(self, step: int) -> list[Sequence]:
        """Return conversations, and which of their tokens count."""
        epoch = 0
        while step >= len(self._bins(epoch)):
            step -= len(self._bins(epoch))
            epoch += 1
        spans = ((self._start[each], self._length[each]) for each in self._bins(epoch)[step])
        spans = (slice(start, start + length) for start, length in spans)
        return [(self._token[each].astype(np.int64), self._counts[each]) for each in spans]

    def _bins(self, epoch: int) -> list[np.ndarray]:
        """Return the conversations of each step of an epoch: in order, as long as they fit."""
        while len(self._epochs) <= epoch:
            generator = np.random.default_rng((self._seed, len(self._epochs)))
            order = generator.permutation(len(self._start))
            ends = np.cumsum(self._size[order])
            cuts = [0]
            while cuts[-1] < len(order):
                before = ends[cuts[-1] - 1] if cuts[-1] else 0
                cuts.append(int(np.searchsorted(ends, before + self._room, "right")))
            self._epochs.append(np.split(order, cuts[1:-1]))
        return self._epochs[epoch]


class Batches:
    """The steps of a training run.

    Parameters
    ----------
    work
        Folder of `train.npy` and, if the shape has conversations, `conversations.npz`.
    shape
        The shape that is trained.
    seed
        Seed of what each step holds.
    """

    def __init__(self, work: Path, shape: Shape, seed: int) -> None:
        rows = shape.tokens // shape.length
        self._conversations = None
        if shape.conversations:
            rows = round(rows * DOCUMENTS)
            room = shape.tokens - rows * shape.length
            self._conversations = Conversations(work / "conversations.npz", room, seed)
        self._windows = Windows(work / "train.npy", rows, shape.length, seed)

    def of_step(self, step: int, parts: int = 1) -> list[Batch]:
        """Return the tokens of `step`, in parts of about equal size."""
        sequences = self._windows.of_step(step)
        if self._conversations is not None:
            sequences += self._conversations.of_step(step)
        shares: list[list[Sequence]] = [[] for _ in range(parts)]
        sizes = [0] * parts
        for each in sorted(sequences, key=lambda sequence: -len(sequence[0])):
            smallest = sizes.index(min(sizes))
            shares[smallest].append(each)
            sizes[smallest] += -(-(len(each[0]) - 1) // ROUND) * ROUND
        return [pack(*each) for each in zip(shares, map(rounded, sizes), strict=True)]


def rounded(tokens: int) -> int:
    """Return the size of a batch that has room for `tokens`."""
    return -(-tokens // PART_ROUND) * PART_ROUND


def pack(sequences: Iterable[Sequence], tokens: int) -> Batch:
    """Return sequences as one batch of `tokens` tokens; padding never counts."""
    padded = [pad(*each, -(len(each[0]) - 1) % ROUND) for each in sequences]
    lengths = [len(token) - 1 for token, _ in padded]
    if rest := tokens - sum(lengths):
        padded.append(pad(np.full(1, END_OF_TEXT), np.zeros(1, bool), rest))
        lengths.append(rest)
    shifted = [(token[:-1], token[1:], counts[1:]) for token, counts in padded]
    token_N, next_N, counts_N = (
        torch.from_numpy(np.concatenate(parts)) for parts in zip(*shifted, strict=True)
    )
    return Batch(token_N, next_N, counts_N, Segments(lengths))


def pad(token: np.ndarray, counts: np.ndarray, padding: int) -> Sequence:
    """Return a sequence with end-of-text tokens after it, which do not count."""
    filled = np.pad(token.astype(np.int64), (0, padding), constant_values=END_OF_TEXT)
    return filled, np.pad(counts, (0, padding))
