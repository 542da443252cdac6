"""Attention for training: what transformers computes eagerly, in a band where a layer slides.

Full layers go through PyTorch's fused attention, which wants keys and values of one width; sliding
ones look at the keys of two windows. Registered with transformers under `NAME`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

__all__ = ["NAME", "attend", "register"]

NAME = "banded"


def register() -> None:
    """Make transformers know this attention, and give it no mask."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)


def attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Return attention over one run of tokens from position 0 on, [B, T, heads, value width].

    Raises
    ------
    ValueError
        A mask was given, or T is no multiple of the window's blocks.
    """
    if attention_mask is not None:
        raise ValueError("this attention masks by position alone, and was given a mask")
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    if sliding_window is None:
        wide = functional.pad(value, (0, key.shape[-1] - value.shape[-1]))
        answer = functional.scaled_dot_product_attention(
            query, key, wide, is_causal=True, scale=scaling
        )[..., : value.shape[-1]]
    else:
        answer = _banded(query * scaling, key, value, s_aux, sliding_window - 1)
    return answer.transpose(1, 2).contiguous(), None


def _banded(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, before: int) -> Tensor:
    """Attend to oneself and `before` tokens before: a block looks at itself and the one before."""
    B, H, T, _ = query.shape
    if T % before:
        raise ValueError(f"{T} tokens: expected a multiple of {before}")
    query = query.unflatten(2, (-1, before))
    key, value = (_with_block_before(each, before) for each in (key, value))
    scores = query @ key.transpose(-1, -2)  # [B, H, blocks, before, 2 x before]
    row = torch.arange(before)[:, None]
    column = torch.arange(2 * before)
    seen = (column >= row) & (column <= row + before)
    first = seen & (column >= before)
    mask = torch.stack([first, *[seen] * (T // before - 1)])
    scores = scores.masked_fill(~mask, -torch.inf)
    sink = sinks.view(1, H, 1, 1, 1).expand(B, -1, T // before, before, -1)
    weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
    return (weights @ value).flatten(2, 3)


def _with_block_before(each: Tensor, size: int) -> Tensor:
    blocks = each.unflatten(2, (-1, size))
    before = functional.pad(blocks[:, :, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([before, blocks], dim=3)
