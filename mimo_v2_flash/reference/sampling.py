"""Reference token selection: a sort of each row of logits.

Source: the order of `numpy.argmax` (first of equal ones), continued to the k-th.
"""

import numpy as np

__all__ = ["greedy", "top_k"]


def greedy(logits_NV):
    """Return token_N: the id of the largest logit of each row, the lowest id of equal ones."""
    return np.array([_ranked(row)[0] for row in logits_NV], np.int32)


def top_k(logits_NV, *, k: int):
    """Return (logits_NA, token_NA): the k largest of each row in order, lowest id first."""
    token_NA = np.array([_ranked(row)[:k] for row in logits_NV], np.int32)
    logits_NA = [
        [float(row[v]) for v in tokens] for row, tokens in zip(logits_NV, token_NA, strict=True)
    ]
    return np.array(logits_NA), token_NA


def _ranked(row) -> list[int]:
    return sorted(range(len(row)), key=lambda v: (-float(row[v]), v))
