"""Measured rates of decoding on this machine: products and experts of each format, and layers.

Weights are as large as the model's, up to what no processor's cache holds, and each call reads
others than the last one.
"""

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.checkpoint.params import DenseWeights, ExpertWeights
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs.decode_time import DecodeRates
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.layers.eager_experts import eager_experts
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.quantization import QuantizedTensor, get_format
from mimo_v2_flash.quantization.registry import FORMATS

__all__ = ["measure_decoding"]

SAMPLE = 256 << 20  # bytes of the weights of a measurement
ROWS = 512  # that are quantized; the others are copies
CALLS = 12  # of a measurement, of which the median counts
ARRAYS = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16)}
TOKENS = 24  # that a model of narrow layers decodes


def measure_decoding(
    config: MiMoConfig, forms: Iterable[str], disk: float | None = None
) -> DecodeRates:
    """Return the rates of a model's widths in some formats, which are measured now.

    Parameters
    ----------
    config
        The model.
    forms
        Names of formats, and of safetensors dtypes.
    disk
        The disk's rate, if it is known.
    """
    known = [form for form in dict.fromkeys(forms) if form in FORMATS or form in ARRAYS]
    memory = _product_rate(config, "F32")
    return DecodeRates(
        memory=memory,
        disk=disk,
        layer_seconds=_layer_seconds(),
        products={form: _product_rate(config, form) for form in known},
        experts={form: rate for form in known if (rate := _expert_rate(config, form))},
    )


def _product_rate(config: MiMoConfig, form: str) -> float:
    """Return the bytes per second of products of one row with a large matrix."""
    w_OI = _tiled(_weight(form, ROWS, config.hidden_size), SAMPLE)
    x_1I = np.ones((1, config.hidden_size), np.float32)
    return float(w_OI.nbytes / _median_seconds(lambda _: ops.matmul(x_1I, w_OI)))


def _expert_rate(config: MiMoConfig, form: str) -> float | None:
    """Return the bytes per second of the experts of one token; None without experts."""
    if not any(config.moe_layer_freq):
        return None
    D, F, A = config.hidden_size, config.moe_intermediate_size, config.num_experts_per_tok
    up_FD, down_DF = _weight(form, F, D), _weight(form, D, F)
    one = 2 * up_FD.nbytes + down_DF.nbytes
    layers = sum(config.moe_layer_freq)
    number = int(min(max(SAMPLE // one, 2 * A), layers * config.n_routed_experts))
    experts = ExpertWeights.of(
        DenseWeights(_copy(up_FD), _copy(up_FD), _copy(down_DF)) for _ in range(number)
    )
    x_1D, weight_1A = np.ones((1, D), np.float32), np.full((1, A), 1 / A, np.float32)

    def call(index: int) -> None:
        expert_1A = (np.arange(A, dtype=np.int32)[None] + index * A) % number
        eager_experts(x_1D, weight_1A, expert_1A, experts)

    return float(A * one / _median_seconds(call))


def _layer_seconds() -> float:
    """Return the seconds of a layer whose weights take no time: a narrow model decodes."""
    config = MiMoConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=128,
        moe_intermediate_size=128,
        n_routed_experts=8,
        num_hidden_layers=8,
        hybrid_layer_pattern=(0, 1, 1, 1, 1, 1, 1, 1),
        moe_layer_freq=(0, 1, 1, 1, 1, 1, 1, 1),
    )
    model = MiMoV2FlashModel(random_weights(config, seed=0), config)
    model.generate([[1]], max_new_tokens=2, temperature=0, eos_token_id=())
    start = time.perf_counter()
    model.generate([[1]], max_new_tokens=TOKENS, temperature=0, eos_token_id=())
    return (time.perf_counter() - start) / TOKENS / config.num_hidden_layers


def _weight(form: str, rows: int, columns: int) -> Any:
    """Return a weight of noise in a format, or as an array of a dtype."""
    kind = get_format(form) if form in FORMATS else None
    while kind is not None and columns % kind.block:
        form, kind = "q8_0", get_format("q8_0")
    noise_OI = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    return noise_OI.astype(ARRAYS[form]) if kind is None else kind.quantize(noise_OI)


def _copy(weight: Any) -> Any:
    return _with_arrays(weight, np.copy)


def _tiled(weight: Any, nbytes: int) -> Any:
    """Return the weight that has these rows as often as to have `nbytes` bytes."""
    times = max(1, nbytes // weight.nbytes)
    return _with_arrays(weight, lambda array: np.concatenate([array] * times))


def _with_arrays(weight: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    if not isinstance(weight, QuantizedTensor):
        return change(weight)
    arrays = weight.stored_arrays()
    return weight.with_arrays({name: change(array) for name, array in arrays.items()})


def _median_seconds(call: Callable[[int], Any]) -> float:
    """Return the median of the seconds of a call, after two that load compiled code."""
    seconds = []
    for index in range(CALLS + 2):
        start = time.perf_counter()
        call(index)
        seconds.append(time.perf_counter() - start)
    return median(seconds[2:])
