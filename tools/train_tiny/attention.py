"""Fast attention for training, which computes what transformers' eager attention does.

Full layers use PyTorch's fused attention, which needs keys and values of one width. In sliding
layers a block of queries attends to two blocks of keys. Registered with transformers under `NAME`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

__all__ = ["NAME", "attend", "register"]

NAME = "banded"


def register() -> None:
    """Register this attention with transformers, without a mask."""
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
    """Return causal attention over tokens from position 0 on, [B, T, heads, value width].

    Raises
    ------
    ValueError
        If there is a mask, or T is not a multiple of the block length `sliding_window` - 1.
    """
    if attention_mask is not None:
        raise ValueError("attention_mask must be None: this attention masks by position alone")
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    if sliding_window is None:
        padded_value = functional.pad(value, (0, key.shape[-1] - value.shape[-1]))
        output = functional.scaled_dot_product_attention(
            query, key, padded_value, is_causal=True, scale=scaling
        )[..., : value.shape[-1]]
    else:
        output = _banded(query * scaling, key, value, s_aux, sliding_window - 1)
    return output.transpose(1, 2).contiguous(), None


def _banded(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, before: int) -> Tensor:
    """Return sliding-window attention in blocks: a block attends to itself and the one before it.

    A token attends to itself and the `before` tokens before it; blocks have `before` tokens.
    """
    B, H, T, _ = query.shape
    if T % before:
        raise ValueError(f"{T} tokens: expected a multiple of {before}")
    query = query.unflatten(2, (-1, before))
    key, value = (_with_block_before(each, before) for each in (key, value))
    scores = query @ key.transpose(-1, -2)  # [B, H, blocks, before, 2 x before]
    row = torch.arange(before)[:, None]
    column = torch.arange(2 * before)
    in_window = (column >= row) & (column <= row + before)
    first = in_window & (column >= before)
    mask = torch.stack([first, *[in_window] * (T // before - 1)])
    scores = scores.masked_fill(~mask, -torch.inf)
    sink = sinks.view(1, H, 1, 1, 1).expand(B, -1, T // before, before, -1)
    weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
    return (weights @ value).flatten(2, 3)


def _with_block_before(x: Tensor, size: int) -> Tensor:
    blocks = x.unflatten(2, (-1, size))
    before = functional.pad(blocks[:, :, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([before, blocks], dim=3)
