"""The MTP heads of the shipped checkpoint as the modules that were trained, dequantised."""

from copy import copy
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mimo_v2_flash.config import MiMoConfig
from tests.support.shipped import FOLDER, dequantised, shipped_oracle, stored
from tools.train_tiny import attention, heads

PREFIX = "model.mtp.layers."
BLOCK = 128  # of the attention in training: sequences are multiples of it


@cache
def shipped_heads() -> Any:
    """Return the heads, with the weights of the checkpoint."""
    config = MiMoConfig.from_pretrained(FOLDER)
    state = {
        name.removeprefix(PREFIX).replace("attention_sink_bias", "sinks"): weight
        for name, weight in dequantised(stored(), config.num_key_value_heads).items()
        if name.startswith(PREFIX)
    }
    attention.register()
    as_trained = copy(shipped_oracle().config)
    as_trained._attn_implementation = attention.NAME
    modules = heads.new_heads(SimpleNamespace(config=as_trained))
    modules.load_state_dict(state)
    return modules.eval()


def head_logits(token_T: list[int]) -> list[np.ndarray]:
    """Return each head's logits [T - 1 - k, V], from the first token on that head k reads.

    The last rows are of no use where a token would have to follow `token_T`.
    """
    inputs, targets = torch.tensor([token_T[:-1]]), torch.tensor([token_T[1:]])
    assert inputs.shape[1] % BLOCK == 0
    with torch.no_grad():
        pairs = heads.draft_logits(shipped_heads(), shipped_oracle(), inputs, targets)
    return [logits[0].numpy() for logits, _ in pairs]
