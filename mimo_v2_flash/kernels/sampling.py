"""Token selection inside a traced program: greedy, and top-k for the host to sample from.

A step then returns a few numbers per token, where all logits would be 610 kB. Temperature, top-p
and min-p apply to the top k on the host, in `engine.sampler`.

Source: transformers `generation/utils.py` (`_sample`: argmax) and `generation/logits_process.py`
(`TopKLogitsWarper`, which keeps all ties; this module keeps k). MiMo: V = 152,576.
"""

import numpy as np

from . import ops
from .axes import checked

__all__ = ["greedy", "top_k"]


@checked
def greedy(logits_NV):
    """Return token_N, int32: the id of the largest logit, the lowest id of equal ones.

    NaN is not detected: NumPy takes it for the largest.

    Raises
    ------
    ValueError
        If the shape or dtype of `logits_NV` contradicts its name.
    """
    return np.argmax(logits_NV, axis=-1).astype(np.int32)


@checked
def top_k(logits_NV, *, k: int):
    """Return (logits_NA, token_NA), float32 and int32: the A = k largest of each row in order.

    Of equal logits the lowest id comes first. An excluded token cannot be marked by -inf, which
    `ops.top_k` refuses: use a large negative number.

    Raises
    ------
    ValueError
        If k is not in 1..V, `logits_NV` contradicts its name, or (arrays) a logit is not finite.
    """
    V = logits_NV.shape[-1]
    if not 1 <= k <= V:
        raise ValueError(f"top_k: k {k} is not in 1..{V}")
    return ops.top_k(logits_NV.astype(np.float32), k)
