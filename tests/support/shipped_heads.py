"""The MTP heads of the shipped checkpoint as the modules that were trained, dequantised."""

from functools import cache
from typing import Any

import numpy as np
import torch

from mimo_v2_flash.config import MiMoConfig
from tests.support.shipped import FOLDER, dequantised, shipped_oracle, stored
from tools.train import heads, packing
from tools.train.model import Trunk

PREFIX = "model.mtp.layers."


@cache
def shipped_heads() -> Any:
    """Return the trunk and the heads, with the weights of the checkpoint."""
    config = MiMoConfig.from_pretrained(FOLDER)
    state = {
        name.removeprefix(PREFIX).replace("attention_sink_bias", "sinks"): weight
        for name, weight in dequantised(stored(), config.num_key_value_heads).items()
        if name.startswith(PREFIX)
    }
    trunk = Trunk(shipped_oracle().config).eval()
    trunk.load_state_dict(shipped_oracle().state_dict())
    modules = heads.new_heads(trunk.config)
    modules.load_state_dict(state)
    return trunk, modules.eval()


def head_logits(token_T: list[int]) -> list[np.ndarray]:
    """Return each head's logits [T - 2 - k, V], from the first token on that head k reads."""
    trunk, modules = shipped_heads()
    counts = np.ones(len(token_T), bool)
    batch = packing.pack([(np.array(token_T), counts)], -(-len(token_T) // 128) * 128)
    with torch.no_grad():
        return [draft.numpy() for draft, _ in heads.draft_logits(modules, trunk, batch)]
