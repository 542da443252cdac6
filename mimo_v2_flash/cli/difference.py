"""How far a tensor of one trace is from the same tensor of another."""

from typing import NamedTuple

import numpy as np

__all__ = [
    "NOTHING",
    "Difference",
    "difference_of",
    "difference_of_choices",
    "difference_per_expert",
]


class Difference(NamedTuple):
    """What lies between tensors A and B.

    Attributes
    ----------
    largest
        The largest absolute difference; of choices, how many tokens chose other experts.
    share
        `largest` as a share of A's range, its largest finite number less its smallest; of choices,
        as a share of the tokens. Infinity where a number is NaN or infinite in one of them alone.
    cosine
        Of the angle between A and B; NaN for choices, and where a number is not finite.
    token
        Index of the first token that differs by more than is allowed, -1 if none does.
    note
        What a reader should know beside the numbers; often empty.
    """

    largest: float
    share: float
    cosine: float
    token: int
    note: str = ""

    @property
    def diverges(self) -> bool:
        """Whether any token differs by more than is allowed."""
        return self.token >= 0


NOTHING = Difference(0.0, 0.0, np.nan, -1)  # between tensors without a number


def difference_of(a: np.ndarray, b: np.ndarray, tolerance: float) -> Difference:
    """Return the difference of tensors of one shape, tokens first.

    A token may differ by `tolerance`, a share of A's range. NaN differs from all but NaN, infinity
    from all but itself.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not a.size:
        return NOTHING
    broken = [int(np.count_nonzero(~np.isfinite(x))) for x in (a, b)]
    note = f"{broken[0]} not finite in A, {broken[1]} in B" if any(broken) else ""
    with np.errstate(invalid="ignore"):
        distance = np.abs(a - b)
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosine = float(np.vdot(a, b)) / norms if norms else float(not a.any() and not b.any())
    distance[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    distance[np.isnan(distance)] = np.inf
    share_T = np.max(distance.reshape(len(a), -1), axis=1) / _range(a)
    over_T = share_T > tolerance
    token = int(np.argmax(over_T)) if over_T.any() else -1
    return Difference(float(np.max(distance)), float(np.max(share_T)), cosine, token, note)


def _range(a: np.ndarray) -> float:
    """Return the range of what is finite; of equal numbers their size, of zeros 1."""
    finite = a[np.isfinite(a)]
    if not finite.size:
        return 1.0
    return float(np.ptp(finite)) or float(np.max(np.abs(finite))) or 1.0


def difference_of_choices(a_TA: np.ndarray, b_TA: np.ndarray) -> Difference:
    """Return how many tokens chose other experts, in whatever order; none is allowed to."""
    other_T = np.any(np.sort(a_TA, axis=1) != np.sort(b_TA, axis=1), axis=1)
    count = int(np.count_nonzero(other_T))
    token = int(np.argmax(other_T)) if count else -1
    note = f"{count} of {len(a_TA)} tokens chose other experts" if count else ""
    return Difference(float(count), count / len(a_TA), np.nan, token, note)


def difference_per_expert(
    a: np.ndarray, b: np.ndarray, a_TA: np.ndarray, b_TA: np.ndarray, tolerance: float
) -> Difference:
    """Return the difference of per-expert tensors whose experts `a_TA` and `b_TA` name.

    Experts are paired by their ids, whose order may differ; tokens that chose other experts are
    left out.
    """
    order_a, order_b = np.argsort(a_TA, axis=1), np.argsort(b_TA, axis=1)
    same_TA = np.take_along_axis(a_TA, order_a, 1) == np.take_along_axis(b_TA, order_b, 1)
    kept = np.flatnonzero(np.all(same_TA, axis=1))
    pairs = a[kept[:, None], order_a[kept]], b[kept[:, None], order_b[kept]]
    found = difference_of(*pairs, tolerance)
    if found.diverges:
        found = found._replace(token=int(kept[found.token]))
    left_out = f"tokens left out: {len(a) - len(kept)}" if len(kept) < len(a) else ""
    return found._replace(note=", ".join(filter(None, (left_out, found.note))))
