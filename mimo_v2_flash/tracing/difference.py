"""Differences between a tensor of one trace and the same tensor of another."""

from typing import NamedTuple

import numpy as np

__all__ = [
    "NOTHING",
    "Difference",
    "difference_of",
    "difference_of_expert_ids",
    "difference_per_expert",
]


class Difference(NamedTuple):
    """The difference between tensors A and B.

    Attributes
    ----------
    largest
        The largest absolute difference. For expert ids: how many tokens have other experts.
    relative
        `largest` relative to A's range, its largest finite number less its smallest. For expert
        ids: relative to the number of tokens. Infinity if a number is NaN or infinite in A or B
        alone.
    cosine
        Cosine of the angle between A and B; NaN for expert ids, and if a number is not finite.
    token
        Index of the first token that differs by more than the tolerance; -1 if there is none.
    note
        Remark for the reader; often empty.
    """

    largest: float
    relative: float
    cosine: float
    token: int
    note: str = ""

    @property
    def diverges(self) -> bool:
        """Whether any token differs by more than the tolerance."""
        return self.token >= 0


NOTHING = Difference(0.0, 0.0, np.nan, -1)  # of tensors without elements


def difference_of(a: np.ndarray, b: np.ndarray, tolerance: float) -> Difference:
    """Return the difference of two tensors of the same shape, whose first axis is tokens.

    `tolerance` is relative to A's range. NaN equals only NaN, and an infinity only itself.

    Parameters
    ----------
    a, b : array
        The tensors; differences are relative to the range of A.
    tolerance : float
        The largest relative difference that is none.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not a.size:
        return NOTHING
    nonfinite = [int(np.count_nonzero(~np.isfinite(x))) for x in (a, b)]
    note = f"{nonfinite[0]} not finite in A, {nonfinite[1]} in B" if any(nonfinite) else ""
    with np.errstate(invalid="ignore"):
        distance = np.abs(a - b)
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosine = float(np.vdot(a, b)) / norms if norms else float(not a.any() and not b.any())
    distance[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    distance[np.isnan(distance)] = np.inf
    relative_T = np.max(distance.reshape(len(a), -1), axis=1) / _range(a)
    over_T = relative_T > tolerance
    token = int(np.argmax(over_T)) if over_T.any() else -1
    return Difference(float(np.max(distance)), float(np.max(relative_T)), cosine, token, note)


def _range(a: np.ndarray) -> float:
    """Return the range of the finite elements; if all are equal, their magnitude, or else 1."""
    finite = a[np.isfinite(a)]
    if not finite.size:
        return 1.0
    return float(np.ptp(finite)) or float(np.max(np.abs(finite))) or 1.0


def difference_of_expert_ids(a_TA: np.ndarray, b_TA: np.ndarray) -> Difference:
    """Return how many tokens have other expert ids, in any order; the tolerance is zero."""
    other_T = np.any(np.sort(a_TA, axis=1) != np.sort(b_TA, axis=1), axis=1)
    count = int(np.count_nonzero(other_T))
    token = int(np.argmax(other_T)) if count else -1
    note = f"{count} of {len(a_TA)} tokens chose other experts" if count else ""
    return Difference(float(count), count / len(a_TA), np.nan, token, note)


def difference_per_expert(
    a: np.ndarray, b: np.ndarray, a_TA: np.ndarray, b_TA: np.ndarray, tolerance: float
) -> Difference:
    """Return the difference of per-expert tensors; `a_TA` and `b_TA` are their expert ids.

    Experts are matched by id, whatever their order. Tokens with other experts are left out.

    Parameters
    ----------
    a, b : array
        Tensors of [tokens, experts per token, ...].
    a_TA, b_TA : array of int
        Ids of their experts.
    tolerance : float
        The largest relative difference that is none.
    """
    order_a, order_b = np.argsort(a_TA, axis=1), np.argsort(b_TA, axis=1)
    same_TA = np.take_along_axis(a_TA, order_a, 1) == np.take_along_axis(b_TA, order_b, 1)
    kept = np.flatnonzero(np.all(same_TA, axis=1))
    pairs = a[kept[:, None], order_a[kept]], b[kept[:, None], order_b[kept]]
    difference = difference_of(*pairs, tolerance)
    if difference.diverges:
        difference = difference._replace(token=int(kept[difference.token]))
    left_out = f"tokens left out: {len(a) - len(kept)}" if len(kept) < len(a) else ""
    return difference._replace(note=", ".join(filter(None, (left_out, difference.note))))
