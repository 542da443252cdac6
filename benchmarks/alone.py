"""Measurements of this project alone: the LM head at full size, and a sliding-window layer."""

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.lm_head import lm_head
from mimo_v2_flash.model import MiMoV2FlashModel

from .clock import median_seconds
from .machine import bytes_per_second

__all__ = ["head", "sliding"]

TIMES, DECODED = 3, 32


def head(*, quick: bool) -> dict[str, Any]:
    """Measure the logits of one token with a bfloat16 LM head, and the read bandwidth."""
    config = MiMoConfig()
    shape = (config.vocab_size // (16 if quick else 1), config.hidden_size)
    bits = np.random.default_rng(0).integers(0, 1 << 16, shape, np.uint16)
    w_VD = (bits & np.uint16(0xBFFF)).view(ml_dtypes.bfloat16)  # finite: all between -2 and 2
    x_ND = np.ones((1, config.hidden_size), np.float32)
    lm_head(x_ND, w_VD)  # loads compiled code
    before = bytes_per_second([w_VD])
    elapsed = median_seconds(lambda: lm_head(x_ND, w_VD), TIMES)
    rates = before, bytes_per_second([w_VD])
    return {"head": elapsed, "head_bytes": w_VD.nbytes, "head_read": rates}


def sliding(*, quick: bool) -> dict[str, Any]:
    """Measure the seconds per token of a sliding-window layer, for a short and a long prompt.

    The model is this layer alone, with MiMo's heads; its FFN is so narrow that it takes no time.
    """
    config = MiMoConfig(
        vocab_size=256,
        intermediate_size=128,
        num_hidden_layers=1,
        hybrid_layer_pattern=(1,),
        moe_layer_freq=(0,),
    )
    if quick:
        config = replace(config, hidden_size=512, swa_num_attention_heads=8)
    model = MiMoV2FlashModel(random_weights(config, seed=0), config)
    lengths = (256, 1024) if quick else (1024, 8192)
    _token_seconds(model, lengths[0])  # warm-up
    short, long = (_token_seconds(model, length) for length in lengths)
    return {
        "lengths": lengths,
        "prefill_token": (short[0], long[0]),
        "decode_token": (short[1], long[1]),
    }


def _token_seconds(model: MiMoV2FlashModel, length: int) -> tuple[float, float]:
    """Return the seconds per token of a prefill of `length` tokens, and of decoding after it."""
    token_1T = np.random.default_rng(0).integers(0, 256, (1, length))
    caches = []

    def prefill() -> None:
        cache = model.new_cache(1, length + TIMES * DECODED)
        model.step(token_1T, [np.arange(length)], cache, logits_at=[[length - 1]])
        caches[:] = [cache]

    def decode() -> None:
        for _ in range(DECODED):
            model.step([[7]], [[int(caches[0].length_B[0])]], caches[0])

    return median_seconds(prefill, TIMES) / length, median_seconds(decode, TIMES) / DECODED
