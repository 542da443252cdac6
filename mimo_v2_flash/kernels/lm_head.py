"""Language-model head: a logit per token of the vocabulary, in float32, without soft-capping.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashForCausalLM.lm_head`). MiMo:
V = 152,576, D = 4096, bfloat16: 1.25 GB to read.
"""

from . import ops
from .axes import checked

__all__ = ["lm_head"]


@checked
def lm_head(x_ND, w_VD):
    """Return `logits_NV`, float32; pass only the rows of `x_ND` whose logits are needed."""
    return ops.matmul(x_ND, w_VD)
