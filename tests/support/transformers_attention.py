"""Attention of transformers' MiMo, with the masks of its configuration."""

from types import SimpleNamespace

import numpy as np
import pytest


def eager_attention(step, *, sliding: bool) -> tuple[np.ndarray, int]:
    """Return `y_BTHC` of a step that starts at position 0, and the sliding window.

    Full layers of transformers have no sinks; `step.sink_H` is used in sliding ones.
    """
    torch = pytest.importorskip("torch")
    masking = pytest.importorskip("transformers.masking_utils")
    modeling = pytest.importorskip("transformers.models.mimo_v2_flash.modeling_mimo_v2_flash")
    config = modeling.MiMoV2FlashConfig(attn_implementation="eager")
    B, T, H, Q = step.q_BTHQ.shape
    make = masking.create_sliding_window_causal_mask if sliding else masking.create_causal_mask
    mask = make(
        config=config,
        inputs_embeds=torch.zeros(B, T, 1),
        attention_mask=None,
        past_key_values=None,
        position_ids=torch.tensor(step.position_BT).long(),
    )
    layer = SimpleNamespace(
        num_key_value_groups=H // step.k_BTKQ.shape[2],
        sinks=torch.tensor(step.sink_H) if sliding else None,
        training=False,
    )
    heads_first = (torch.tensor(part).transpose(1, 2) for part in step[:3])
    y_BTHC, _ = modeling.eager_attention_forward(layer, *heads_first, mask, scaling=Q**-0.5)
    return y_BTHC.numpy(), config.sliding_window
